"""Who may call what: the sample's policies on bookinfo, seen from the browser and from app containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mesh_rig import ROOT, Mesh, docker, get, inspect, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
SECURITY = ROOT / "samples/bookinfo/security"
PAGE = "http://127.0.0.1:30080/productpage"
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
    files = [argument for name in names for argument in ("-f", str(SECURITY / f"{name}.yaml"))]
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


def page_of(answer: tuple[int, str]) -> tuple[int, str]:
    return answer[0], answer[1].strip()


def test_nobody_may_do_anything_until_somebody_is_allowed_to(mesh: Mesh) -> None:
    with applied(mesh, "authorization-policy-allow-nothing"):
        assert page_of(get(PAGE)) == DENIED
        assert call("productpage-v1", "http://details:9080/details/0") == 403
        with applied(mesh, "authorization-policy-allow-reading"):
            code, page = get(PAGE)
            assert (code, "ISBN-10" in page, "Reviewer1" in page) == (200, True, True)
            assert "unavailable" not in page
            assert call("productpage-v1", "http://details:9080/details/0") == 200
            assert call("reviews-v2", "http://ratings:9080/ratings/0") == 200
            assert call("reviews-v2", "http://ratings:9080/ratings/0", "POST") == 403
            assert call("ratings-v1", "http://details:9080/details/0") == 403
            assert call("details-v1", "http://ratings:9080/ratings/0") == 403
        assert page_of(get(PAGE)) == DENIED
    assert get(PAGE)[0] == 200


def test_a_deny_forbids_one_thing_alone(mesh: Mesh) -> None:
    with applied(mesh, "authorization-policy-deny-posting"):
        assert call("reviews-v2", "http://ratings:9080/ratings/0", "POST") == 403
        assert call("reviews-v2", "http://ratings:9080/ratings/0") == 200


def test_a_dry_run_only_counts(mesh: Mesh) -> None:
    def counted() -> int:
        found = inspect("bookinfo-reviews-v1-1-pod-1")["NetworkSettings"]["Networks"].values()
        address = next(iter(found))["IPAddress"]
        lines = get(f"http://{address}:15090/stats/prometheus")[1].splitlines()
        return sum(int(line.rpartition(" ")[2]) for line in lines if "shadow_denied" in line and line[0] != "#")

    with applied(mesh, "authorization-policy-deny-dry-run"):
        until(lambda: call("productpage-v1", "http://reviews:9080/reviews/0") == 200 and counted() > 0, "a count")


def test_the_gateway_asks_for_tokens_where_it_is_told(mesh: Mesh) -> None:
    token = (SECURITY / "reader.jwt").read_text().strip()
    forged = f"{token[:-4]}{'AAAA' if token[-4:] != 'AAAA' else 'BBBB'}"
    with applied(mesh, "request-authentication-products"):
        assert get(PAGE)[0] == 200
        assert page_of(get(PRODUCTS)) == DENIED
        code, body = get(PRODUCTS, headers={"Authorization": f"Bearer {token}"})
        assert (code, type(json.loads(body))) == (200, list)
        assert get(PRODUCTS, headers={"Authorization": f"Bearer {forged}"})[0] == 401
        assert get(PAGE, headers={"Authorization": f"Bearer {forged}"})[0] == 401
        assert get(f"{PRODUCTS}?access_token={token}", headers={"Authorization": f"Bearer {token}"})[0] == 401


def test_the_gateway_closes_to_addresses(mesh: Mesh) -> None:
    with applied(mesh, "authorization-policy-ingress-addresses"):
        assert page_of(get(PAGE)) == DENIED
        assert page_of(get(PAGE, headers={"X-Forwarded-For": "8.8.8.8"})) == DENIED
    assert get(PAGE)[0] == 200
