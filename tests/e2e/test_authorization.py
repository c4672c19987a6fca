"""Who may call what: the sample's policies on bookinfo, seen from the browser and from app
containers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mesh_rig import ROOT, Mesh, docker, get, statistics, until, whole_page

pytestmark = pytest.mark.docker
SECURITY = ROOT / "samples/bookinfo/security"
PAGE = "http://127.0.0.1:30080/productpage"
DETAILS, RATINGS = "http://details:9080/details/0", "http://ratings:9080/ratings/0"
RATED = "http://ratings:9080/ratings/7"
"""For POST: one that comes through before a policy is in force changes the stars of a book that no
page shows.
"""
PRODUCTS = "http://127.0.0.1:30080/api/v1/products"
DENIED = (403, "RBAC: access denied")
CALL = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[2], data=b"{}" if sys.argv[1] == "POST" else None, method=sys.argv[1])
try:
    print(urllib.request.urlopen(request, timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@contextmanager
def applied(mesh: Mesh, *names: str) -> Iterator[None]:
    """Sample policies, in force in every proxy; gone afterwards."""
    files = [
        argument
        for name in names
        for argument in ("-f", str(SECURITY / f"{name}.yaml"))
    ]
    done = mesh.command("apply", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        mesh.until_synced()
        yield
    finally:
        assert mesh.command("delete", *files).returncode == 0
        mesh.until_synced()


def call(app: str, url: str, method: str = "GET") -> int:
    """The status that an app's container is answered with."""
    return int(docker("exec", f"bookinfo-{app}-1", "python3", "-c", CALL, method, url))


def comes_to(app: str, url: str, status: int, method: str = "GET") -> None:
    """Wait until the app is answered so: proxies finish requests on connections that they have by
    the rules of then.
    """
    until(
        lambda: call(app, url, method) == status,
        f"{app} gets {status} for {method} {url}",
        30,
        0.2,
    )


def page_comes_to(url: str, expected: tuple[int, str], **headers: str) -> None:
    """The same for the browser: each of the gateway's two workers has connections of its own to
    what is behind it.
    """
    until(
        lambda: asked(url, **headers) == expected, f"{url} answers {expected}", 30, 0.2
    )


def refused_as_unknown(url: str, token: str) -> None:
    """The gateway has two workers, and takes a change in one after the other."""
    until(
        lambda: asked(url, Authorization=f"Bearer {token}")[0] == 401,
        f"{url} is refused with 401",
        30,
        0.2,
    )


def asked(url: str, **headers: str) -> tuple[int, str]:
    """Status, and the text of an error."""
    code, text = get(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    return code, "" if code == 200 else text.strip()


def test_nobody_may_do_anything_until_somebody_is_allowed_to(mesh: Mesh) -> None:
    with applied(mesh, "authorization-policy-allow-nothing"):
        page_comes_to(PAGE, DENIED)
        comes_to("productpage-v1", DETAILS, 403)
        with applied(mesh, "authorization-policy-allow-reading"):
            page_comes_to(PAGE, (200, ""))
            comes_to("productpage-v1", DETAILS, 200)
            comes_to("productpage-v1", "http://reviews:9080/reviews/0", 200)
            comes_to("reviews-v2", RATINGS, 200)
            comes_to("reviews-v2", RATED, 403, "POST")
            comes_to("ratings-v1", DETAILS, 403)
            comes_to("details-v1", RATINGS, 403)
            # For a few seconds a connection of before may still be refused.
            until(whole_page, "the page is whole again")
        page_comes_to(PAGE, DENIED)
    until(whole_page, "the page is whole without policies")
    comes_to("reviews-v2", RATINGS, 200)


def test_a_deny_forbids_one_thing_alone(mesh: Mesh) -> None:
    with applied(mesh, "authorization-policy-deny-posting"):
        comes_to("reviews-v2", RATED, 403, "POST")
        comes_to("reviews-v2", RATINGS, 200)


def test_a_dry_run_only_counts(mesh: Mesh) -> None:
    def counted() -> int:
        return sum(
            int(line.rpartition(" ")[2])
            for line in statistics("bookinfo-reviews-v1-1-pod-1")
            if "shadow_denied" in line and line[0] != "#"
        )

    with applied(mesh, "authorization-policy-deny-dry-run"):
        url = "http://reviews:9080/reviews/0"
        until(
            lambda: call("productpage-v1", url) == 200 and counted() > 0,
            "a count of what was not denied",
            60,
        )


def test_the_gateway_asks_for_tokens_where_it_is_told(mesh: Mesh) -> None:
    token = (SECURITY / "reader.jwt").read_text().strip()
    forged = f"{token[:-4]}{'AAAA' if token[-4:] != 'AAAA' else 'BBBB'}"
    with applied(mesh, "request-authentication-products"):
        page_comes_to(PRODUCTS, DENIED)
        page_comes_to(PRODUCTS, (200, ""), Authorization=f"Bearer {token}")
        refused_as_unknown(PRODUCTS, forged)
        refused_as_unknown(f"{PRODUCTS}?access_token={token}", token)
        page_comes_to(PAGE, (200, ""))
        refused_as_unknown(PAGE, forged)
    page_comes_to(PRODUCTS, (200, ""))


def test_the_gateway_closes_to_addresses(mesh: Mesh) -> None:
    with applied(mesh, "authorization-policy-ingress-addresses"):
        page_comes_to(PAGE, DENIED)
        page_comes_to(PAGE, DENIED, X_Forwarded_For="8.8.8.8")
    page_comes_to(PAGE, (200, ""))
