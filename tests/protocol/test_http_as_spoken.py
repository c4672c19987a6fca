"""A real Envoy as the client's proxy and as the server's: what reaches an app of what its clients
say, as often as they say it.

The client's proxy listens on every address of the loopback network, which stand for the virtual
ones of services; the server's proxy is behind `app` and `judged`, of which the second one has a
policy.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from policy_rig import Certificates, Envoy, outbound_parts, sidecar_parts
from ports import free_ports

pytestmark = pytest.mark.binary
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin*]}}]}]}
"""
APP, JUDGED, OTHER, ONCE, TRIED = (f"127.0.0.{n}" for n in (11, 12, 13, 14, 15))


class RawApp:
    """A server that answers with the very bytes that it got, or resets where the path says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.deliveries: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            threading.Thread(
                target=self._answer, args=(connection,), daemon=True
            ).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            head = _read_head(connection)
            if not head:
                return
            self.deliveries.append(head.split("\r\n", 1)[0])
            if "/reset" in head:
                return
            if (token := re.search(r"^upgrade: (.*)\r$", head, re.M)) is not None:
                answer = f"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: {token[1]}"
                connection.sendall(f"{answer}\r\n\r\n".encode())
                connection.sendall(connection.recv(5))
                return
            body = head
            if "chunked" in head:
                body += _read_chunks(connection)
            connection.sendall(
                f"HTTP/1.1 200 OK\r\nconnection: close\r\nserved-by: {self.name}\r\n"
                f"content-length: {len(body)}\r\n\r\n{body}".encode("latin1")
            )


def _read_head(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n\r\n") and (part := connection.recv(1)):
        data += part
    return data.decode("latin1")


def _read_chunks(connection: socket.socket) -> str:
    data = b""
    while not re.search(rb"0\r\n(.+\r\n)?\r\n\Z", data) and (
        part := connection.recv(65536)
    ):
        data += part
    return data.decode("latin1")


@dataclass(frozen=True)
class World:
    """The client's proxy, on a port without and on one with VirtualServices, and the app."""

    port: int
    ruled: int
    app: RawApp

    def say(
        self, data: str, more: str = "", *, to: str = APP, ruled: bool = False
    ) -> str:
        """What comes back for these bytes, sent to an address; `more` follows the first answer."""
        received = b""
        at = (to, self.ruled if ruled else self.port)
        with socket.create_connection(at, timeout=60) as connection:
            connection.sendall(data.encode("latin1"))
            if more:
                received += _read_head(connection).encode("latin1")
                connection.sendall(more.encode())
            while not _is_answered(received, more) and (part := connection.recv(65536)):
                received += part
        return received.decode("latin1")

    def get(
        self,
        path: str = "/",
        *,
        host: str = "nobody",
        method: str = "GET",
        to: str = APP,
        ruled: bool = False,
    ) -> str:
        """What comes back for a request."""
        return self.say(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n", to=to, ruled=ruled
        )

    def delivered(self, path: str, *, method: str, to: str) -> int:
        """How often the app saw a request for this path, which is asked for once."""
        line = f"{method} {path} HTTP/1.1"
        self.get(path, method=method, to=to, ruled=True)
        return self.app.deliveries.count(line)


def _is_answered(received: bytes, more: str) -> bool:
    if more and received.endswith(more.encode()):
        return True
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"^content-length: (\d+)", head, re.M)
    return length is not None and len(body) >= int(length[1])


def entry(name: str, address: str, target: int, port: int) -> str:
    return document(
        "ServiceEntry",
        name,
        {
            "hosts": [name],
            "addresses": [address],
            "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
            "resolution": "STATIC",
            "endpoints": [{"address": "127.0.0.1", "ports": {"http": target}}],
        },
    )


def rule(name: str, *routes: Mapping[str, object]) -> str:
    return document("VirtualService", name, {"hosts": [name], "http": routes})


def to(name: str, **settings: object) -> Mapping[str, object]:
    return {"route": [{"destination": {"host": name}}], **settings}


def document(kind: str, name: str, spec: Mapping[str, object]) -> str:
    head = {"apiVersion": "networking.istio.io/v1", "kind": kind}
    return json.dumps(head | {"metadata": {"name": name}, "spec": spec})


TEAPOT = {
    "match": [{"uri": {"prefix": "/teapot"}}],
    "directResponse": {"status": 418},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    app, other = RawApp("app"), RawApp("other")
    port, ruled, plain, judged = free_ports(4)
    config = [
        entry("app.test", APP, plain, port),
        entry("judged.test", JUDGED, judged, port),
        entry("other.test", OTHER, other.port, port),
        entry("once.test", ONCE, plain, ruled),
        entry("tried.test", TRIED, plain, ruled),
        rule("once.test", TEAPOT, to("once.test", retries={"attempts": 0})),
        rule(
            "tried.test",
            to("tried.test", retries={"attempts": 2, "retryOn": "reset,5xx"}),
        ),
    ]

    def folder(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    def server(policy: str, number: int) -> Envoy:
        home = folder("server")
        served = {number: ("HTTP", app.port)}
        parts = sidecar_parts(policy, served, (), Certificates(home))
        return Envoy(home, [parts], [number])

    client = outbound_parts("\n---\n".join(config), [port, ruled])
    envoys = [
        Envoy(folder("client"), [client], [port, ruled]),
        server("", plain),
        server(POLICY, judged),
    ]
    yield World(port, ruled, app)
    for envoy in envoys:
        envoy.stop()


# who is meant
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "nobody",
        "localhost:30080",
        "192.0.2.7",
        "[2001:db8::1]:80",
        "app.test.",
        "a_b",
        "www.example.com:8443",
    ],
)
def test_a_host_that_names_nobody_goes_to_the_service_that_was_dialled(
    world: World, host: str
) -> None:
    answer = world.get("/x", host=host)
    assert answer.startswith("HTTP/1.1 200 OK")
    assert f"host: {host}\r\n" in answer
    assert "x-dockermesh" not in answer
    assert "served-by: app\r\n" in answer


def test_a_host_of_another_service_of_the_mesh_goes_there(world: World) -> None:
    assert "served-by: other\r\n" in world.get("/x", host="other.test", to=APP)


def test_nobody_chooses_by_the_mesh_s_own_headers(world: World) -> None:
    answer = world.say(
        "GET /x HTTP/1.1\r\nHost: nobody\r\nx-dockermesh-called: other.test\r\n"
        "x-dockermesh-again: 1\r\n\r\n"
    )
    assert "served-by: app\r\n" in answer
    assert "x-dockermesh" not in answer


def test_the_dialled_service_s_rules_hold_whatever_the_host(world: World) -> None:
    for host in ("nobody", "once.test", "192.0.2.7"):
        answer = world.get("/teapot", host=host, to=ONCE, ruled=True)
        assert answer.startswith("HTTP/1.1 418"), host


def test_an_absolute_uri_goes_to_the_service_that_was_dialled(world: World) -> None:
    answer = world.get("http://www.example.com/x", host="ignored")
    assert "served-by: app\r\n" in answer
    assert answer.count("host: www.example.com\r\n") == 1


@pytest.mark.parametrize("address", [APP, JUDGED])
def test_http_1_0_without_a_host_is_answered(world: World, address: str) -> None:
    answer = world.say("GET /x HTTP/1.0\r\n\r\n", to=address)
    assert answer.startswith("HTTP/1.0 200 OK")


# what is said
# ---------------------------------------------------------------------------------------

ODD_PATH = "/a/../b/%7e/a|b\\c/./d//e?x=%7e"


def test_a_path_reaches_the_app_as_it_was_sent(world: World) -> None:
    assert f"GET {ODD_PATH} HTTP/1.1\r\n" in world.get(ODD_PATH)


@pytest.mark.parametrize("method", ["BREW", "BAN", "get", "M-SEARCH"])
def test_any_method_reaches_the_app(world: World, method: str) -> None:
    assert f"{method} /x HTTP/1.1\r\n" in world.get("/x", method=method)


def test_hundreds_of_headers_and_trailers_reach_the_app(world: World) -> None:
    headers = "".join(f"x-{n}: 1\r\n" for n in range(500))
    answer = world.say(f"GET /x HTTP/1.1\r\nHost: n\r\n{headers}\r\n")
    assert "x-499: 1\r\n" in answer
    answer = world.say(
        "POST /x HTTP/1.1\r\nHost: n\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n"
        "\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
    )
    assert answer.endswith("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n")


@pytest.mark.parametrize("token", ["websocket", "tcp", "SPDY/3.1"])
def test_a_connection_is_upgraded(world: World, token: str) -> None:
    answer = world.say(
        f"GET /x HTTP/1.1\r\nHost: n\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n",
        "hello",
    )
    assert answer.startswith("HTTP/1.1 101") and answer.endswith("hello")


@pytest.mark.parametrize("token", ["h2c", "TLS/1.0"])
def test_an_upgrade_that_a_server_may_ignore_is_an_ordinary_request(
    world: World, token: str
) -> None:
    answer = world.say(
        f"GET /x HTTP/1.1\r\nHost: n\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n"
    )
    assert answer.startswith("HTTP/1.1 200 OK") and "upgrade:" not in answer


# what policies decide
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/admin", "/x/../admin", "/%61dmin", "/x\\..\\admin"])
@pytest.mark.parametrize("host", ["nobody", "judged.test", "admin"])
def test_a_policy_sees_through_every_spelling_of_a_path_whatever_the_host(
    world: World, path: str, host: str
) -> None:
    assert world.get(path, host=host, to=JUDGED).startswith("HTTP/1.1 403")


def test_where_a_policy_judges_nothing_is_let_through_that_it_could_misread(
    world: World,
) -> None:
    seen = len(world.app.deliveries)
    assert world.get("/x", method="get", to=JUDGED).startswith("HTTP/1.1 400")
    tunnel = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"
    assert world.say(tunnel, to=JUDGED).startswith("HTTP/1.1 404")
    assert len(world.app.deliveries) == seen


@pytest.mark.parametrize("path", ["/x/../teapot", "/%74eapot"])
def test_a_rule_sees_through_every_spelling_of_a_path(world: World, path: str) -> None:
    assert world.get(path, to=ONCE, ruled=True).startswith("HTTP/1.1 418")


# how often
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_an_app_that_resets_sees_a_request_as_often_as_the_rule_says(
    world: World, method: str
) -> None:
    assert world.delivered(f"/reset/{method}/0", method=method, to=ONCE) == 1
    assert world.delivered(f"/reset/{method}/2", method=method, to=TRIED) == 3


def test_without_a_rule_it_sees_it_once(world: World) -> None:
    world.get("/reset/unruled")
    assert world.app.deliveries.count("GET /reset/unruled HTTP/1.1") == 1
