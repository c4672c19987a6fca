"""gRPC through real Envoys, with grpcio as client and server: whatever a client calls the server by
(`:authority`), the call goes where it was dialled, and a gateway routes by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from patience import SLACK
from policy_rig import (
    Certificates,
    Envoy,
    gateway_parts,
    outbound_parts,
    service,
    sidecar_parts,
)
from ports import free_ports

from dockermesh.model import Protocol

pytestmark = pytest.mark.binary
APP, OTHER = "127.0.0.21", "127.0.0.22"
WHO, COUNT, FAIL = "/test.Echo/Who", "/test.Echo/Count", "/test.Echo/Fail"


class Echo(grpc.GenericRpcHandler):
    """Says who it is, counts to what it is sent, or fails with details."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return {
            WHO: grpc.unary_unary_rpc_method_handler(lambda *_: self._name),
            COUNT: grpc.unary_stream_rpc_method_handler(
                lambda request, _: (b"%d" % n for n in range(int(request)))
            ),
            FAIL: grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, "not today"
                )
            ),
        }.get(details.method)


@dataclass(frozen=True)
class World:
    """Where a client's proxy and a gateway listen."""

    port: int
    edge: int

    def call(
        self, method: str = WHO, authority: str = "nobody", *, to: str, port: int = 0
    ) -> str:
        """What a call gets; the name of the status if that is not OK."""
        options = [("grpc.default_authority", authority)]
        with grpc.insecure_channel(f"{to}:{port or self.port}", options) as channel:
            try:
                answer = channel.unary_unary(method)(b"", timeout=30 * SLACK)
            except grpc.RpcError as error:
                return f"{error.code().name} {error.details()}"
        return str(answer, "ascii")


def document(kind: str, name: str, spec: Mapping[str, object]) -> str:
    head = {"apiVersion": "networking.istio.io/v1", "kind": kind}
    return json.dumps(head | {"metadata": {"name": name}, "spec": spec})


def entry(name: str, address: str, target: int, port: int) -> str:
    spec = {
        "hosts": [name],
        "addresses": [address],
        "ports": [{"number": port, "name": "grpc", "protocol": "GRPC"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "127.0.0.1", "ports": {"grpc": target}}],
    }
    return document("ServiceEntry", name, spec)


def edge_config(port: int) -> str:
    """The gateway's: app by one name, other by another, and one method alone by a third."""
    server = {"port": {"number": port, "name": "grpc", "protocol": "GRPC"}}
    selector = {"istio": "ingressgateway"}
    gateway = {"selector": selector, "servers": [server | {"hosts": ["*.example.com"]}]}

    def routes(name: str, target: str, **match: object) -> str:
        host = f"{target}.service.consul"
        route = {"route": [{"destination": {"host": host}}], **match}
        spec = {"hosts": [f"{name}.example.com"], "gateways": ["edge"], "http": [route]}
        return document("VirtualService", name, spec)

    one = [{"uri": {"exact": COUNT}}]
    made = [
        document("Gateway", "edge", gateway),
        routes("app", "app"),
        routes("other", "other"),
        routes("counting", "app", match=one),
    ]
    return "\n---\n".join(made)


def server(name: str) -> tuple[grpc.Server, int]:
    made = grpc.server(ThreadPoolExecutor(4), handlers=(Echo(name),))
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    return made, port


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    (app, app_port), (other, other_port) = server("app"), server("other")
    port, sidecar, edge = free_ports(3)
    config = [
        entry("app.test", APP, sidecar, port),
        entry("other.test", OTHER, other_port, port),
    ]
    services = [
        service("app", sidecar, protocol=Protocol.GRPC),
        service("other", other_port, protocol=Protocol.GRPC),
    ]

    def folder(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    home = folder("server")
    served = {sidecar: ("GRPC", app_port)}
    envoys = [
        Envoy(
            folder("client"), [outbound_parts("\n---\n".join(config), [port])], [port]
        ),
        Envoy(home, [sidecar_parts("", served, (), Certificates(home))], [sidecar]),
        Envoy(folder("edge"), [gateway_parts(edge_config(edge), services)], [edge]),
    ]
    yield World(port, edge)
    for envoy in envoys:
        envoy.stop()
    for running in (app, other):
        running.stop(None)


@pytest.mark.parametrize(
    "authority",
    ["nobody", "grpc.test:1", "192.0.2.7", "localhost:50051", "a_b", "x.example.com."],
)
def test_an_authority_that_names_nobody_goes_to_the_service_that_was_dialled(
    world: World, authority: str
) -> None:
    assert world.call(authority=authority, to=APP) == "app"
    assert world.call(authority=authority, to=OTHER) == "other"


def test_an_authority_of_another_service_of_the_mesh_goes_there(world: World) -> None:
    assert world.call(authority="other.test", to=APP) == "other"


def test_streams_and_statuses_pass_whatever_the_authority(world: World) -> None:
    with grpc.insecure_channel(
        f"{APP}:{world.port}", [("grpc.default_authority", "nobody")]
    ) as channel:
        parts = channel.unary_stream(COUNT)(b"500", timeout=30 * SLACK)
        assert len(list(parts)) == 500
    assert world.call(FAIL, to=APP) == "FAILED_PRECONDITION not today"
    assert world.call("/test.Echo/None", to=APP).startswith("UNIMPLEMENTED")


def test_a_gateway_routes_calls_by_authority_and_method(world: World) -> None:
    def call(authority: str, method: str = WHO) -> str:
        return world.call(method, authority, to="127.0.0.1", port=world.edge)

    assert call("app.example.com") == "app"
    assert call("other.example.com:8443") == "other"
    assert call("absent.example.com").startswith("UNIMPLEMENTED")
    assert call("counting.example.com").startswith("UNIMPLEMENTED")
