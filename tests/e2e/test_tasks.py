"""Bookinfo's tasks: the files of `samples/bookinfo/networking` do what its README says, applied by
kubectl.

Waits end when a task's effect shows; delays are asserted from below only.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_rig import Mesh, answers, docker, run
from patience import until
from tasks_rig import TOOLS, TOOLS_PROJECT, VERSIONS, Tasks, check_share
from tls_files import Pair, self_signed

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

BOOKS = "http://books.example/"
NO_REVIEWS = "Sorry, product reviews are currently unavailable for this book."


@pytest.fixture(scope="session")
def kubeconfig(bookinfo: Mesh, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("kube") / "config"
    done = bookinfo.command(
        "kubeconfig", env=bookinfo.environment(KUBECONFIG=str(file))
    )
    assert done.returncode == 0, done.stderr
    return str(file)


@pytest.fixture
def tasks(mesh: Mesh, kubeconfig: str) -> Tasks:
    return Tasks(mesh, kubeconfig)


@pytest.fixture(scope="module")
def extras(bookinfo: Mesh) -> Iterator[None]:
    """The tools beside bookinfo, in the same mesh."""
    bookinfo.up(TOOLS, "--build", "--egress-gateway")
    yield
    bookinfo.down(TOOLS_PROJECT)


@pytest.fixture
def equipped(extras: None, tasks: Tasks) -> Tasks:
    return tasks


# routing
# --------------------------------------------------------------------------------------------------


def test_all_requests_go_to_v1_until_the_rules_are_removed(tasks: Tasks) -> None:
    with tasks.applied(*VERSIONS):
        until(lambda: tasks.versions(8) == {"v1": 8}, "only v1 answers")
        assert tasks.versions(24) == {"v1": 24}
    until(
        lambda: tasks.versions(12).keys() == {"v1", "v2", "v3"},
        "all versions answer again",
    )


def test_jason_sees_black_stars_and_nobody_else(tasks: Tasks) -> None:
    with tasks.applied(*VERSIONS, "virtual-service-reviews-test-v2"):
        until(lambda: tasks.versions(4, "jason") == {"v2": 4}, "jason sees v2")
        assert tasks.versions(12, "jason") == {"v2": 12}
        assert tasks.versions(12) == {"v1": 12}


def test_requests_are_split_by_weight(tasks: Tasks) -> None:
    with tasks.applied(*VERSIONS, "virtual-service-reviews-50-v3"):
        until(
            lambda: "v3" in (seen := tasks.versions(8)) and "v2" not in seen,
            "v3 is seen, v2 no longer",
        )
        seen = tasks.versions(40)
        assert seen.keys() <= {"v1", "v3"}
        check_share(seen["v3"], 40, 0.5)


def test_a_canary_gets_a_tenth_and_then_everything(tasks: Tasks) -> None:
    with tasks.applied(*VERSIONS, "virtual-service-reviews-90-10"):
        until(
            lambda: "v2" in (seen := tasks.versions(8)) and "v3" not in seen,
            "v2 is seen, v3 no longer",
            60,
        )
        seen = tasks.versions(40)
        assert seen.keys() <= {"v1", "v2"}
        check_share(seen["v2"], 40, 0.1)
        with tasks.applied("virtual-service-reviews-v3"):
            until(lambda: tasks.versions(8) == {"v3": 8}, "only v3 answers")


# faults, timeouts, retries
# --------------------------------------------------------------------------------------------


def test_a_delay_of_7_s_uncovers_the_bug_in_bookinfos_timeouts(tasks: Tasks) -> None:
    with tasks.applied(
        *VERSIONS,
        "virtual-service-reviews-test-v2",
        "virtual-service-ratings-test-delay",
    ):

        def is_late() -> bool:
            page = tasks.page("jason")
            return page.sorry == NO_REVIEWS and page.seconds >= 5.9

        until(is_late, "jason waits in vain")
        # Nobody else is concerned.
        until(
            lambda: (page := tasks.page()).version == "v1" and page.sorry == "",
            "others see v1, whole",
        )


def test_a_delay_of_2_s_is_no_trouble_for_v3(tasks: Tasks) -> None:
    with tasks.applied(
        *VERSIONS, "virtual-service-reviews-v3", "virtual-service-ratings-delay-2s"
    ):

        def shown() -> bool:
            page = tasks.page()
            return page.version == "v3" and page.sorry == "" and page.seconds >= 2

        until(shown, "v3's page with stars, 2 s late")


def test_jasons_ratings_are_aborted(tasks: Tasks) -> None:
    with tasks.applied(
        *VERSIONS,
        "virtual-service-reviews-test-v2",
        "virtual-service-ratings-test-abort",
    ):

        def has_no_stars() -> bool:
            page = tasks.page("jason")
            return (
                page.version == "v2"
                and page.sorry == "Ratings service is currently unavailable"
            )

        until(has_no_stars, "jason gets no stars")
        until(lambda: tasks.page().sorry == "", "others get whole pages")


def test_reviews_time_out_after_half_a_second(tasks: Tasks) -> None:
    with tasks.applied(
        *VERSIONS, "virtual-service-ratings-delay-2s", "virtual-service-reviews-timeout"
    ):

        def are_given_up() -> bool:
            page = tasks.page()
            return page.sorry == NO_REVIEWS and page.seconds >= 1  # the page asks twice

        until(are_given_up, "reviews are given up")


def test_retries_hide_an_unstable_service(equipped: Tasks) -> None:
    url = "http://httpbin:8000/unstable"
    assert equipped.load(url, 10)["status"] == {"200": 5, "500": 5}
    with equipped.applied("virtual-service-httpbin-retries"):
        until(
            lambda: equipped.load(url, 10)["status"] == {"200": 10},
            "every request succeeds",
        )


def test_a_circuit_breaker_refuses_what_is_too_much(equipped: Tasks) -> None:
    url = "http://httpbin:8000/delay/1"
    assert equipped.load(url, 6, 6)["status"] == {"200": 6}
    with equipped.applied("destination-rule-httpbin-circuit-breaker"):
        # One is served, one waits. On a slow machine some requests may start when others are done.
        told = until(
            lambda: (
                t if (t := equipped.load(url, 12, 12)["status"]).get("503") else None
            ),
            "some are refused",
        )
        assert told.keys() == {"200", "503"}
        assert equipped.load("http://httpbin:8000/get", 5, 1)["status"] == {"200": 5}


def test_a_mirror_sees_every_request_and_answers_none(tasks: Tasks) -> None:
    def mirrored() -> int:
        return run("docker", "logs", "bookinfo-reviews-v3-1").stdout.count(
            "GET /reviews/0"
        )

    with tasks.applied(*VERSIONS, "virtual-service-reviews-mirror-v3"):
        before = mirrored()
        until(
            lambda: tasks.page().version == "v1" and mirrored() > before,
            "v3 gets copies",
        )
        until(lambda: tasks.versions(4) == {"v1": 4}, "v1 alone answers")
        before = mirrored()
        assert tasks.versions(10) == {"v1": 10}
        until(lambda: mirrored() >= before + 10, "v3 got all ten")


# the entry
# --------------------------------------------------------------------------------------------------


def test_an_entry_of_ones_own_takes_the_place_of_the_generated_one(
    tasks: Tasks,
) -> None:
    page, health = (
        f"http://127.0.0.1:30080{path}" for path in ("/productpage", "/health")
    )
    assert answers(page) and answers(health)
    with tasks.applied("bookinfo-gateway"):
        until(lambda: answers(health, 404), "what the rule does not name is not served")
        until(lambda: answers(page), "what it names is")
    until(lambda: answers(health), "all is served again")


# TLS
# --------------------------------------------------------------------------------------------------


def https(trusted: Pair, shown: Pair | None = None) -> int:
    """The status of the page over TLS at the gateway; 0 where there is no agreement about
    certificates.
    """
    context = ssl.create_default_context(cadata=trusted.certificate)
    if shown is not None:
        context.load_cert_chain(shown.folder / "tls.crt", shown.folder / "tls.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", 30443), 30) as plain,
            context.wrap_socket(plain, server_hostname="bookinfo.example") as secure,
        ):
            secure.sendall(
                b"GET /productpage HTTP/1.1\r\nHost: bookinfo.example\r\nConnection: close\r\n\r\n"
            )
            return int(secure.recv(64).split(b" ")[1])
    except (OSError, IndexError):
        return 0


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Pair, Pair]:
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    return self_signed(folders[0], "bookinfo.example"), self_signed(
        folders[1], "bookinfo.example"
    )


def test_https_at_the_gateway_follows_its_secret(
    tasks: Tasks, pairs: tuple[Pair, Pair]
) -> None:
    old, new = pairs
    credential = ("istio-system", "bookinfo-credential", "tls")
    with (
        tasks.secret(*credential, *old.options),
        tasks.applied("bookinfo-gateway-simple"),
    ):
        until(lambda: https(old) == 200, "the page over TLS")
        assert https(new) == 0
        tasks.renew(*credential, *new.options)
        until(lambda: https(new) == 200, "the page with the new certificate")
        assert https(old) == 0


def test_mutual_tls_at_the_gateway_asks_for_a_certificate(
    tasks: Tasks, pairs: tuple[Pair, Pair]
) -> None:
    server, client = pairs
    files = (
        f"--from-file={server.folder}/tls.crt",
        f"--from-file={server.folder}/tls.key",
    )
    with (
        tasks.secret(
            "istio-system",
            "bookinfo-credential",
            "generic",
            *files,
            f"--from-file=ca.crt={client.folder}/tls.crt",
        ),
        tasks.applied("bookinfo-gateway-mutual"),
    ):
        until(
            lambda: https(server, client) == 200 and https(server) == 0,
            "the page for who shows a certificate alone",
        )
        assert https(server, server) == 0


def test_a_proxy_makes_tls_of_plain_calls(equipped: Tasks, tmp_path: Path) -> None:
    roots = tmp_path / "ca.crt"
    roots.write_text(
        equipped.python(
            f"import urllib.request as u; print(u.urlopen('{BOOKS}ca.crt').read().decode())"
        )
    )
    with (
        equipped.secret("default", "books-ca", "generic", f"--from-file={roots}"),
        equipped.applied("egress-books-tls-origination"),
    ):
        until(
            lambda: equipped.load(BOOKS)["served_by"] == {"near-v1-tls": 1},
            "the site's TLS port answers",
        )
        assert equipped.load(BOOKS, 5)["status"] == {"200": 5}


# TCP, egress, localities
# --------------------------------------------------------------------------------------------


def echoes(requests: int) -> Counter[str]:
    """Who answers so many connections to the gateway's TCP port."""
    found: Counter[str] = Counter()
    for _ in range(requests):
        with socket.create_connection(("127.0.0.1", 31400), 30) as connection:
            connection.sendall(b"hello\n")
            found[connection.makefile().readline().split(" ")[0]] += 1
    return found


def test_tcp_connections_are_split_by_weight(equipped: Tasks) -> None:
    with equipped.applied("tcp-echo-all-v1"):
        until(lambda: echoes(10) == {"one": 10}, "only v1 answers")
        assert echoes(24) == {"one": 24}
        with equipped.applied("tcp-echo-20-v2"):
            until(lambda: echoes(4)["two"], "v2 is seen")
            check_share(echoes(100)["two"], 100, 0.2)


def test_a_service_entry_opens_the_way_to_a_site_outside(equipped: Tasks) -> None:
    with equipped.applied("egress-registry-only"):
        until(
            lambda: equipped.load(BOOKS)["status"] == {"502": 1},
            "the unknown site is out of reach",
        )
        with equipped.applied("egress-books"):
            until(
                lambda: equipped.load(BOOKS)["status"] == {"200": 1},
                "the site is reached",
            )
            told = equipped.python(
                "import ssl, urllib.request as u;print(u.urlopen('https://books.example/',"
                " context=ssl._create_unverified_context()).read().decode())"
            )
            assert json.loads(told)["tls"] == "books.example"
            assert equipped.load("http://books.far.example/")["status"] == {"502": 1}
    until(
        lambda: equipped.load(BOOKS)["status"] == {"200": 1},
        "unknown sites are reached again",
    )


def test_calls_leave_the_mesh_through_the_egress_gateway(equipped: Tasks) -> None:
    program = f"import urllib.request as u; print(u.urlopen('{BOOKS}').read().decode())"
    with equipped.applied("egress-books", "egress-books-gateway"):

        def passed() -> bool:
            done = run(
                "docker",
                "exec",
                f"{TOOLS_PROJECT}-client-1",
                "python3",
                "-c",
                program,
                check=False,
            )
            return (
                done.returncode == 0
                and json.loads(done.stdout)["headers"].get("x-egress") == "gateway"
            )

        until(passed, "the gateway's mark is on the request")
        assert equipped.load(BOOKS, 10, 2)["status"] == {"200": 10}
        # The gateway is the only way: without it nothing arrives.
        pod = f"{TOOLS_PROJECT}-istio-egressgateway-proxy-1"
        docker("pause", pod)
        try:
            program = (
                f"import urllib.request as u; print(u.urlopen('{BOOKS}',"
                " timeout=1).read().decode())"
            )
            done = run(
                "docker",
                "exec",
                f"{TOOLS_PROJECT}-client-1",
                "python3",
                "-c",
                program,
                check=False,
            )
            assert done.returncode != 0
        finally:
            docker("unpause", pod)


def test_a_region_that_fails_is_left_for_the_next(equipped: Tasks) -> None:
    url = "http://books.everywhere.example/"
    with equipped.applied("locality-failover"):
        until(
            lambda: equipped.load(url, 20, 2)["served_by"] == {"near-v1": 20},
            "the near site answers alone",
        )
        assert equipped.load(f"{url}status/503")["status"] == {"503": 1}

        def has_failed_over() -> bool:
            by = equipped.load(url, 20, 2)["served_by"]
            if "near-v1" in by:  # it was not left, or it is taken back after 30 s
                equipped.load(f"{url}status/503")
            return bool(by == {"far-v1": 20})

        until(has_failed_over, "the far site answers alone")
