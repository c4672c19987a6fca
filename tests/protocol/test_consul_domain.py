"""A Consul whose domain is not `consul`: every name of the mesh ends with it, in real Consul, real
Envoy, and its DNS; nothing is left below the default domain.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, workload
from patience import until
from policy_rig import Envoy, ask, serve
from ports import free_port

from dockermesh.client.offline.render import snapshot_parts
from dockermesh.model import ServedPort, WorkloadKind

pytestmark = [pytest.mark.consul, pytest.mark.binary]
DOMAIN = "mesh"
HOST = f"reviews.service.{DOMAIN}"
GATEWAY_LABELS = {"istio": "ingressgateway", "app": "istio-ingressgateway"}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Running]:
    async with Agent(domain=DOMAIN) as agent:
        consul = replace(agent.settings, allow_loopback=True, domain=DOMAIN)
        async with control_plane(tmp_path, agent, consul=consul) as running:
            yield running


async def add_reviews(mesh: Running) -> int:
    """The service in Consul, the workload that serves it, and a gateway; the app's port."""
    port = serve()
    app = workload(
        "shop/reviews-1", ports=(ServedPort("reviews", port, "http"),), token_sha256=""
    )
    gateway = workload(
        "shop/gateway-1", kind=WorkloadKind.GATEWAY, labels=GATEWAY_LABELS
    )
    await mesh.add(app, gateway)
    meta = {"dockermesh-workload": app.name, "protocol": "http"}
    await mesh.agent.register("reviews", Address="127.0.0.1", Port=port, Meta=meta)
    await eventually(lambda: HOST in mesh.plane.catalog().services, 10)
    return port


async def configure(mesh: Running, port: int) -> None:
    """A gateway that sends everything to `reviews`, by its short name."""
    server = {
        "port": {"number": port, "name": "http", "protocol": "HTTP"},
        "hosts": ["*"],
    }
    specs = {
        "Gateway": {"selector": {"istio": "ingressgateway"}, "servers": [server]},
        "VirtualService": {
            "hosts": ["*"],
            "gateways": ["front"],
            "http": [{"route": [{"destination": {"host": "reviews"}}]}],
        },
    }
    # The gateway of this test has no certificate.
    path = "/apis/mesh.istio.io/v1alpha1/namespaces/istio-system/meshconfigs"
    plain = {
        "apiVersion": "mesh.istio.io/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "default"},
        "spec": {"enableAutoMtls": False},
    }
    status, answer = await mesh.ask("POST", path, **plain)
    assert status == 201, answer
    for kind, spec in specs.items():
        path = f"/apis/networking.istio.io/v1/namespaces/default/{kind.lower()}s"
        head = {"apiVersion": "networking.istio.io/v1", "kind": kind}
        document = {**head, "metadata": {"name": "front"}, "spec": spec}
        status, answer = await mesh.ask("POST", path, **document)
        assert status == 201, answer


async def parts_of(mesh: Running, name: str) -> dict[str, list[dict[str, Any]]]:
    await mesh.plane.settled()
    snapshot = mesh.plane.snapshot_of(name)
    assert snapshot is not None
    return snapshot_parts(snapshot)


@contextmanager
def dns_of(folder: Path, parts: dict[str, list[dict[str, Any]]]) -> Iterator[int]:
    """The DNS listener alone, on a port of its own."""
    port = free_port()
    listener = next(item for item in parts["listeners"] if item["name"] == "dns")
    listener["address"]["socketAddress"]["portValue"] = port
    folder.mkdir()
    bare = {kind: [] for kind in parts} | {"listeners": [listener]}
    envoy = Envoy(folder, [bare], [])
    try:
        yield port
    finally:
        envoy.stop()


def resolve(port: int, name: str) -> str:
    """The IPv4 address that the DNS server gives; empty without an answer."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = (
        struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack(">2H", 1, 1)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            client.sendto(query, ("127.0.0.1", port))
            answer = client.recv(2000)
        except OSError:
            return ""
    found = struct.unpack(">6H", answer[:12])[3]
    return socket.inet_ntoa(answer[-4:]) if found else ""


async def test_a_gateway_reaches_the_service_by_its_short_name(
    mesh: Running, tmp_path: Path
) -> None:
    await add_reviews(mesh)
    port = free_port()
    await configure(mesh, port)

    async def is_told() -> bool:
        return HOST in json.dumps((await parts_of(mesh, "shop/gateway-1"))["routes"])

    await eventually(is_told, 10)
    folder = tmp_path / "gateway"
    folder.mkdir()
    envoy = Envoy(folder, [await parts_of(mesh, "shop/gateway-1")], [port])
    try:
        assert ask(port, "/hello").seen.get("path") == "/hello"
    finally:
        envoy.stop()


async def test_dns_answers_below_the_domain_and_knows_no_other(
    mesh: Running, tmp_path: Path
) -> None:
    await add_reviews(mesh)
    parts = await parts_of(mesh, "shop/reviews-1")
    with dns_of(tmp_path / "dns", parts) as port:
        until(lambda: bool(resolve(port, HOST)), "Envoy answers for the service", 10)
        vip = resolve(port, HOST)
        assert vip.startswith("240.240.")
        for name in ("reviews", "reviews.service", "reviews.default.svc.cluster.local"):
            assert resolve(port, name) == vip, name
    assert "service.consul" not in json.dumps(parts)


async def test_clusters_and_names_are_below_the_domain_while_the_service_is_away(
    mesh: Running,
) -> None:
    """What stands in for a service that is stopped has the name of the service, too."""
    port = await add_reviews(mesh)
    await mesh.agent.put("agent/service/deregister/reviews-1")
    await eventually(lambda: HOST not in mesh.plane.catalog().services, 10)
    text = json.dumps(await parts_of(mesh, "shop/reviews-1"))
    assert f"outbound|{port}||{HOST}" in text
    assert "service.consul" not in text
