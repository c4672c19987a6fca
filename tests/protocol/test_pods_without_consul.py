"""A pod that starts, or is restarted, while Consul is away is in the mesh of the control plane whose
registrar saw it, and stays in it when Consul is back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, workload

from dockermesh.consul.client import ConsulClient
from dockermesh.errors import RegistryError
from dockermesh.model import ServedPort, Workload
from dockermesh.model.contract import META_HOST, META_SERVICE, META_WORKLOAD
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.desired import Desired
from dockermesh.registrar.mapping import Registration
from dockermesh.registrar.sink import Sink
from dockermesh.registry.consul.backend import ConsulBackend
from dockermesh.registry.consul.unwritten import TellingSink

pytestmark = pytest.mark.consul


@asynccontextmanager
async def sink_of(mesh: Running) -> AsyncIterator[Sink]:
    """What the registrar in the control plane writes to."""
    backend = mesh.plane._backend
    assert isinstance(backend, ConsulBackend)
    client = ConsulClient(mesh.agent.settings)
    try:
        yield TellingSink(ConsulSink(client, "test-host"), backend._unwritten)
    finally:
        await client.close()


def pod(name: str, address: str, token: str = "") -> tuple[Workload, Desired]:
    """A workload that serves, and what is to be written of it."""
    made = workload(name, host="test-host")
    made = replace(made, ports=(ServedPort(made.service, 80, "http"),))
    if token:
        made = replace(made, token_sha256=token)
    meta = {META_HOST: "test-host", META_WORKLOAD: name, META_SERVICE: made.service}
    registration = Registration(
        id=f"test:{name.rpartition('/')[2]}:80",
        name=made.service,
        port=80,
        address=address,
        meta=MappingProxyType(meta),
    )
    return made, Desired((registration,), (made,))


async def write(sink: Sink, group: str, desired: Desired) -> bool:
    """Whether it could be written."""
    with suppress(RegistryError):
        await sink.refresh()
    try:
        await sink.apply(group, desired)
    except RegistryError:
        return False
    return True


def places(mesh: Running, service: str) -> list[str]:
    """The localities of its endpoints."""
    found = mesh.plane.catalog().services.get(f"{service}.service.consul")
    return [e.locality for e in found.endpoints] if found is not None else []


def addresses(mesh: Running, service: str) -> list[str]:
    """Where a service is."""
    found = mesh.plane.catalog().services.get(f"{service}.service.consul")
    return [e.address for e in found.endpoints] if found is not None else []


async def test_a_new_pod_and_a_restarted_one_are_served_while_consul_is_away(
    tmp_path: Path,
) -> None:
    async with (
        Agent(tmp_path / "consul") as agent,
        control_plane(tmp_path, agent) as mesh,
        sink_of(mesh) as sink,
    ):
        _, before = pod("shop/web-1", "10.9.0.1", token="0" * 64)
        assert await write(sink, "shop/web-1", before)
        await eventually(lambda: addresses(mesh, "web") == ["10.9.0.1"], 10)
        agent.kill()
        await eventually(lambda: bool(mesh.plane.catalog().degraded), 20)

        # Its token is another one after the restart, and so may be its address.
        web, after = pod("shop/web-1", "10.9.0.7")
        new, made = pod("shop/new-1", "10.9.0.2")
        assert not await write(sink, web.name, after)
        assert not await write(sink, new.name, made)
        await eventually(lambda: addresses(mesh, "web") == ["10.9.0.7"], 10)
        await eventually(lambda: addresses(mesh, "new") == ["10.9.0.2"], 10)
        assert places(mesh, "web") == places(mesh, "new") == ["dc1/test-host/"]
        for name in (web.name, new.name):
            async with mesh.stream(name) as stream:
                assert set(await stream.secrets("default")) == {"default"}

        # One that ends meanwhile is gone, too.
        _, brief = pod("shop/brief-1", "10.9.0.3")
        assert not await write(sink, "shop/brief-1", brief)
        await eventually(lambda: addresses(mesh, "brief") == ["10.9.0.3"], 10)
        await write(sink, "shop/brief-1", Desired())
        await eventually(lambda: not addresses(mesh, "brief"), 10)

        agent.launch()
        await eventually(lambda: not mesh.plane.catalog().degraded, 30)
        for name, desired in ((web.name, after), (new.name, made)):
            assert await write(sink, name, desired)
        await eventually(lambda: not shown(mesh), 20)
        assert addresses(mesh, "web") == ["10.9.0.7"]
        assert addresses(mesh, "new") == ["10.9.0.2"]

        # From now on Consul alone counts.
        assert await write(sink, new.name, Desired())
        await eventually(lambda: not addresses(mesh, "new"), 20)
        assert new.name not in mesh.plane.catalog().workloads


def shown(mesh: Running) -> bool:
    backend = mesh.plane._backend
    assert isinstance(backend, ConsulBackend)
    return bool(backend._unwritten._shown)
