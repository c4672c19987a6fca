"""Bookinfo after `dockermesh up`: what a user sees, what an app sees, and what neither gets to
see.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import (
    APPS,
    CONTROL_PLANE,
    Mesh,
    consul,
    containers,
    docker,
    inspect,
    listening_ports,
    pid,
    whole_page,
)
from patience import SLACK, until

pytestmark = pytest.mark.docker

PAGE = "http://localhost:30080/productpage"
APP = "bookinfo-productpage-v1-1"

# Runs in an app container. Of every URL: its host's address there, the status, whether a proxy
# answered.
ASK = """
import http.client, json, socket, sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
patience = float(sys.argv[1])
def ask(url):
    parts = urlsplit(url)
    try:
        address = socket.gethostbyname(parts.hostname)
        connection = http.client.HTTPConnection(address, parts.port or 80, timeout=patience)
        connection.request("GET", parts.path, headers={"Host": parts.netloc})
        answer = connection.getresponse()
        is_by_proxy = "envoy" in str(answer.headers).lower()
        return [address, answer.status, is_by_proxy, answer.read(2000).decode("utf-8", "replace")]
    except (OSError, http.client.HTTPException) as error:
        return ["", 0, False, repr(error)]
urls = sys.argv[2:]
print(json.dumps(dict(zip(urls, ThreadPoolExecutor(8).map(ask, urls)))))
"""


SILENT_S = 3.0
"""Who has not answered by then is taken not to answer."""


def ask(container: str, *urls: str, patience: float = 10 * SLACK) -> dict[str, Any]:
    answered: dict[str, Any] = json.loads(
        docker("exec", container, "python3", "-c", ASK, str(patience), *urls)
    )
    return answered


def address_of(container: str, network: str) -> str:
    return str(inspect(container)["NetworkSettings"]["Networks"][network]["IPAddress"])


def test_six_workloads_and_the_gateway_are_in_sync(mesh: Mesh) -> None:
    listed = {w["name"]: w for w in until(mesh.workloads, "workloads are listed")}
    assert set(listed) == {f"bookinfo/{app}-1" for app in APPS} | {"bookinfo/gateway-1"}
    assert {w["xds"] for w in listed.values()} == {"SYNCED"}
    assert listed["bookinfo/gateway-1"]["kind"] == "router"
    for name, workload in listed.items():
        assert workload["health"] == "healthy", name
        assert inspect(workload["app_container"] or workload["proxy_container"])[
            "State"
        ]["Running"], name


def test_the_page_shows_details_and_reviews_of_all_versions(mesh: Mesh) -> None:
    versions: set[str] = set()

    def seen() -> set[str]:
        body = until(whole_page, "a page with all of its parts")
        assert "The Comedy of Errors" in body
        versions.update(
            v for v in ("reviews-v1", "reviews-v2", "reviews-v3") if v in body
        )
        return versions

    until(lambda: len(seen()) == 3, "all versions of reviews")


def test_the_apps_own_port_is_closed(mesh: Mesh) -> None:
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", 9081), 5),
    ):
        pass


def test_a_second_up_starts_nothing_and_says_so(mesh: Mesh) -> None:
    before = containers("bookinfo") | containers("dockermesh")
    done = mesh.up()
    assert containers("bookinfo") | containers("dockermesh") == before
    assert "nothing was changed" in done.stderr
    assert "http://localhost:30080" in done.stdout


def test_consul_lists_the_endpoints_with_their_versions(mesh: Mesh) -> None:
    passing = [
        e
        for e in consul("/v1/health/service/reviews?passing")
        if "bookinfo-" in e["Service"]["ID"]
    ]
    assert sorted(tag for entry in passing for tag in entry["Service"]["Tags"]) == [
        "version|v1",
        "version|v2",
        "version|v3",
    ]
    pods = {
        address_of(f"bookinfo-reviews-v{n}-1-pod-1", "dockermesh") for n in (1, 2, 3)
    }
    assert {entry["Service"]["Address"] for entry in passing} == pods


@pytest.mark.parametrize("container", [APP, "bookinfo-details-v1-1"])
def test_an_app_reaches_a_service_by_all_its_names(mesh: Mesh, container: str) -> None:
    hosts = (
        *(
            "reviews",
            "reviews:9080",
            "reviews.service.consul",
            "reviews.service.consul:9080",
        ),
        *(
            "reviews.default.svc.cluster.local:9080",
            "reviews.default.svc.cluster.local",
            "reviews-v1:9080",
        ),
    )
    answered = ask(container, *(f"http://{host}/reviews/0" for host in hosts))
    for url, (address, code, is_by_proxy, body) in answered.items():
        assert (code, is_by_proxy) == (200, True), f"{url}: {body}"
        assert address.startswith("240.240."), (
            f"{url} is {address}, not a virtual address of the mesh"
        )
        assert json.loads(body)["reviews"], url


# Runs in an app container. Of each question: the code and how many records there are.
RESOLVE = """
import json, socket, struct, sys
def ask(name, kind):
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    message = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(message, ("127.0.0.11", 53))
        answer = client.recv(65535)
    return [answer[3] & 15, struct.unpack("!6H", answer[:12])[3]]
asked = [question.split() for question in sys.argv[1:]]
own = socket.gethostname()
print(json.dumps({
    "answers": {" ".join(question): ask(question[0], int(question[1])) for question in asked},
    "name": socket.gethostbyaddr(socket.gethostbyname("reviews"))[0],
    "own": sorted({found[4][0] for found in socket.getaddrinfo(own, None)}),
}))
"""


def test_an_app_is_answered_whatever_it_asks_for(mesh: Mesh) -> None:
    none, one, three = [0, 0], [0, 1], [0, 3]
    wanted = {
        "reviews 28": none,
        "reviews.default.svc.cluster.local 28": none,
        "rEviews.service.consul 65": none,
        "rEviews.service.consul 1": one,
        "reviews.service.consul 33": three,
        "_reviews._tcp.service.consul 33": three,
        "dockermesh.node.consul 1": one,
        "nobody.service.consul 1": [3, 0],
    }
    found = json.loads(docker("exec", APP, "python3", "-c", RESOLVE, *wanted))
    assert found["answers"] == wanted
    assert found["name"] == "reviews.service.consul"
    assert found["own"] == [address_of(f"{APP}-pod-1", "bookinfo_default")]


def test_an_app_gets_nothing_out_of_consul_and_the_control_plane(mesh: Mesh) -> None:
    behind = address_of("dockermesh-consul", "dockermesh-control")
    beside = address_of(CONTROL_PLANE, "dockermesh")
    nothing = [
        f"http://{host}:8500/v1/catalog/services"
        for host in (behind, "dockermesh-consul", "172.28.0.1")
    ]
    unauthorized = [
        f"http://{beside}:{page}"
        for page in (
            "8080/apis/networking.istio.io/v1/gateways",
            "15014/metrics",
            "15014/debug/syncz",
            "8080/",
        )
    ]
    answered = ask(APP, *nothing, patience=SILENT_S) | ask(APP, *unauthorized)
    for url in nothing:
        # The app's own proxy may say that it cannot get there; Consul itself says nothing.
        assert (
            answered[url][1] in {0, 502, 503, 504}
            and "bookinfo" not in answered[url][3]
        ), answered[url]
    for url in unauthorized:
        assert answered[url][1] == 401, f"{url}: {answered[url]}"


def test_only_documented_ports_answer_from_another_container(mesh: Mesh) -> None:
    """S5: every port that anybody in the pod or the control plane listens on, asked from the
    network it is on.
    """
    secrets_of_envoy = ("/config_dump", "/quitquitquit", "/server_info", "/stats")
    urls = []
    for container in (
        "bookinfo-reviews-v1-1-pod-1",
        "bookinfo-gateway-pod-1",
        CONTROL_PLANE,
    ):
        address = address_of(container, "dockermesh")
        found = until(
            lambda name=container: listening_ports(name), f"{container} listens"
        )  # type: ignore[misc]
        urls += [
            f"http://{address}:{port}{path}"
            for port in sorted(found)
            for path in secrets_of_envoy
        ]
    assert any(":15000/" in url for url in urls), (
        "the admin port is listened on, and so must be tried"
    )
    started = inspect("bookinfo-reviews-v1-1-proxy-1")["State"]["StartedAt"]
    network = ["--network", "dockermesh", "--label", "SERVICE_IGNORE=true"]
    image = inspect(CONTROL_PLANE)["Config"]["Image"]
    answered = json.loads(
        docker(
            "run",
            "--rm",
            *network,
            "--entrypoint",
            "python3",
            image,
            "-c",
            ASK,
            str(SILENT_S),
            *urls,
        )
    )
    told = {url: answer for url, answer in answered.items() if answer[1] == 200}
    assert told == {}
    assert inspect("bookinfo-reviews-v1-1-proxy-1")["State"]["StartedAt"] == started


def test_pods_share_their_network_with_app_and_proxy(mesh: Mesh) -> None:
    for app in APPS:
        names = (
            f"bookinfo-{app}-1-pod-1",
            f"bookinfo-{app}-1-proxy-1",
            f"bookinfo-{app}-1",
        )
        assert (
            len({Path(f"/proc/{pid(name)}/ns/net").readlink() for name in names}) == 1
        ), names
