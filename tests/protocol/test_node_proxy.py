"""One real Envoy serves several workloads, each through its own network namespace and with its own
identity, of a control plane that knows which ones are on its host.
"""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from bridge_rig import Agent, eventually
from control_plane_rig import (
    Running,
    certificates,
    control_plane,
    identity_in,
    node_id,
    token_of,
    workload,
)
from node_rig import APP, GREETER, Namespaces, NodeProxy, counted, missing
from ports import free_ports

from dockermesh.model import ProxyMode, ServedPort, Workload, WorkloadKind
from dockermesh.model.contract import META_WORKLOAD

pytestmark = [
    pytest.mark.binary,
    pytest.mark.consul,
    pytest.mark.asyncio(loop_scope="module"),
]

HOST = "test-host"
NODE = workload("mesh/node-1", kind=WorkloadKind.NODE, host=HOST)
HTTP, TCP = 8000, 7000
SERVER = "spiffe://cluster.local/ns/default/sa/server"
ANYWHERE = "198.51.100.7"
"""An address that nobody has: requests are led by their Host."""


@pytest.fixture(autouse=True, scope="module")
def machine() -> None:
    if lacks := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"node mode: {lacks}")


class World:
    """A control plane, the proxy of its one node, and the workloads a, b and server there."""

    def __init__(self, mesh: Running, net: Namespaces, proxy: NodeProxy) -> None:
        self.mesh, self.net, self.proxy = mesh, net, proxy
        self.node = node_id(NODE.name).replace("sidecar~", "node~")

    @property
    def vip(self) -> str:
        """The virtual address of the service of bytes."""
        mesh = self.mesh.plane._publisher.mesh
        return mesh.vips["server-tcp.service.consul"]

    def record(self, name: str) -> Workload:
        ports = (
            (
                ServedPort("server", HTTP, "http"),
                ServedPort("server-tcp", TCP, "tcp"),
            )
            if name == "server"
            else ()
        )
        return replace(
            workload(f"shop/{name}-1", address=self.net.address(name), host=HOST),
            labels={"app": name},
            token_sha256="",
            ports=ports,
            mode=ProxyMode.NODE,
            network_namespace=self.net.path(name),
        )

    async def ask(self, name: str, count: int = 1, *, fresh: bool = False) -> Any:
        return await asyncio.to_thread(
            self.net.ask, name, ANYWHERE, HTTP, "server", count, fresh=fresh
        )

    def admin(self, path: str) -> str:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.proxy.admin, timeout=20
        )
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    async def statuses(self, name: str, wanted: set[int]) -> bool:
        """Whether a few requests of a workload are all answered so."""
        return {status for status, *_ in await self.ask(name, 4)} == wanted

    async def is_settled(self) -> bool:
        sync = self.mesh.plane.sync()
        return sync.connected == 1 and sync.is_complete


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("node")
    async with Agent() as agent, control_plane(folder, agent) as mesh:
        with Namespaces("a", "b", "server", "outsider") as net:
            root = mesh.settings.trust_dir / "root.pem"
            [admin] = free_ports(1)
            node = node_id(NODE.name).replace("sidecar~", "node~")
            with NodeProxy(
                node, token_of(NODE.name), mesh.settings.xds, root, admin
            ) as proxy:
                made = World(mesh, net, proxy)
                for name in ("a", "b", "server"):
                    net.capture(name)
                net.serve("server", APP, HTTP)
                net.serve("server", GREETER, TCP)
                for service, port, tag in (
                    ("server", HTTP, "http"),
                    ("server-tcp", TCP, "tcp"),
                ):
                    await agent.register(
                        service,
                        Address=net.address("server"),
                        Port=port,
                        Tags=[f"protocol={tag}"],
                        Meta={META_WORKLOAD: "shop/server-1"},
                    )
                await mesh.add(
                    NODE, *(made.record(name) for name in ("a", "b", "server"))
                )
                try:
                    await eventually(
                        lambda: (
                            "virtualInbound|shop/server-1" in made.admin("/listeners")
                        ),
                        10,
                    )
                    await eventually(made.is_settled, 10)
                except (TimeoutError, OSError):
                    raise AssertionError(proxy.log) from None
                yield made


async def test_each_workload_is_seen_with_its_own_identity_and_address(
    world: World,
) -> None:
    """500 requests of each at once, over the same cluster."""
    answers = await asyncio.gather(world.ask("a", 500), world.ask("b", 500))
    for name, answer in zip(("a", "b"), answers, strict=True):
        own = f"spiffe://cluster.local/ns/default/sa/{name}"
        assert counted(answer) == {(200, world.net.address(name), own): 500}


async def test_bytes_are_led_by_the_virtual_address_and_the_app_sees_the_client(
    world: World,
) -> None:
    said = await asyncio.to_thread(world.net.talk, "a", world.vip, TCP, b"abc")
    assert said == f"hello {world.net.address('a')}\nABC".encode()


async def test_a_virtual_address_is_refused_where_its_service_has_no_port(
    world: World,
) -> None:
    for port in (TCP + 1, HTTP + 1):
        assert (
            await asyncio.to_thread(world.net.talk, "a", world.vip, port, b"abc") == b""
        )


async def test_who_is_in_no_mesh_is_served_in_plaintext_until_a_policy_is_strict(
    world: World,
) -> None:
    """It reaches the app past no proxy of its own, and has no identity."""
    direct = world.net.ask("outsider", world.net.address("server"), HTTP, "server")
    assert counted(direct) == {(200, world.net.address("outsider"), ""): 1}


async def test_a_service_that_calls_itself_does_so_with_its_identity(
    world: World,
) -> None:
    assert counted(await world.ask("server")) == {
        (200, world.net.address("server"), SERVER): 1
    }


async def test_policies_hold_for_each_workload_apart(world: World) -> None:
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "only-a", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "server"}},
            "rules": [
                {
                    "from": [
                        {"source": {"principals": ["cluster.local/ns/default/sa/a"]}}
                    ]
                }
            ],
        },
    }
    path = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies"
    status, answer = await world.mesh.ask("POST", path, **policy)
    assert status == 201, answer
    try:
        await eventually(lambda: world.statuses("b", {403}), 10)
        assert await world.statuses("a", {200})
        [(status, *_)] = world.net.ask(
            "outsider", world.net.address("server"), HTTP, "server"
        )
        assert status == 403
    finally:
        await world.mesh.ask("DELETE", f"{path}/only-a")
    await eventually(lambda: world.statuses("b", {200}), 10)


async def test_it_gets_no_identity_of_another_host(world: World) -> None:
    """Nor of a workload of its own host that has a sidecar."""
    await world.mesh.agent.put(
        "kv/dockermesh/workloads/elsewhere/shop/far-1",
        replace(
            world.record("a"), name="shop/far-1", service="far", host="elsewhere"
        ).to_dict(),
    )
    await world.mesh.add(workload("shop/near-1", host=HOST))
    wanted = [f"spiffe://cluster.local/ns/default/sa/{n}" for n in ("a", "far", "near")]
    await eventually(lambda: "shop/far-1" in world.mesh.plane.catalog().workloads, 10)
    asked = [*wanted, *(f"c/{uri}" for uri in wanted), "default", "ROOTCA"]
    async with world.mesh.stream(NODE.name, node=world.node) as stream:
        got = await stream.secrets(*asked)
    assert got.keys() == {wanted[0], f"c/{wanted[0]}", "ROOTCA"}
    for name in (wanted[0], f"c/{wanted[0]}"):
        assert identity_in(certificates(got[name])[0]) == [wanted[0]]


async def test_without_its_token_nobody_is_the_node(world: World) -> None:
    async with world.mesh.stream(NODE.name, node=world.node, token="0" * 64) as stream:
        code, _ = await stream.refusal("ROOTCA")
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_workload_that_is_gone_is_cut_off_at_once_and_comes_back(
    world: World,
) -> None:
    """Its connections are refused, those that it has included; others notice nothing."""
    await world.mesh.remove(world.record("b"))
    await eventually(lambda: "|shop/b-1" not in world.admin("/listeners"), 10)
    await eventually(world.is_settled, 10)
    [(status, why, _)] = await world.ask("b")
    assert (status, why) == (0, "ConnectionRefusedError")
    assert await world.statuses("a", {200})
    assert "/sa/b" not in world.admin("/certs")

    await world.mesh.add(world.record("b"))
    await eventually(lambda: world.statuses("b", {200}), 10)
