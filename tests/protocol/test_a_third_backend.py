"""A source of services and config that dockermesh does not know: one class, and no other change.

It is in memory; the control plane over it is real, and so are the proxy's stream, the config API and
the tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from bridge_rig import eventually
from control_plane_rig import Stream, node_id, token_of, workload
from envoy.config.route.v3 import route_pb2
from patience import SLACK
from ports import free_ports

from dockermesh.controlplane.control_plane import ControlPlane
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.model import EMPTY_CATALOG, Catalog, Endpoint, Port, Protocol, Service
from dockermesh.registry import (
    Backend,
    ConfigStore,
    Publish,
    Registry,
    StoredResource,
    Tls,
)
from dockermesh.xds import CLUSTER, ROUTES

HOST = "reviews.service.consul"
WEB = workload("shop/web-1")
VIRTUAL_SERVICE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "reviews"},
    "spec": {
        "hosts": ["reviews"],
        "http": [{"timeout": "7s", "route": [{"destination": {"host": "reviews"}}]}],
    },
}


class InMemory:
    """Services, config, history and tokens in dictionaries."""

    name = "memory"
    missing = ""
    sealed = None
    joined = None
    rotation = None
    problem = ""
    index = 0

    def __init__(self) -> None:
        self.catalog = EMPTY_CATALOG
        self.stored: dict[str, StoredResource] = {}
        self.documents: dict[str, Any] = {}
        self._changed = asyncio.Condition()

    @property
    def config(self) -> ConfigStore:
        return self

    @property
    def history(self) -> InMemory:
        return self

    @cached_property
    def tokens(self) -> ConfigStore:
        return InMemory()

    def registry(self, tls: Tls) -> Registry:
        return self

    def registrar(self, tls: Tls) -> None:
        return None

    # a Registry

    async def run(self, publish: Publish) -> None:
        await self._each_time(lambda: publish(self.catalog))

    async def serve(self, catalog: Catalog) -> None:
        self.catalog = catalog
        await self._tell()

    # a ConfigStore

    async def follow(
        self, publish: Callable[[Mapping[str, StoredResource]], None]
    ) -> None:
        await self._each_time(lambda: publish(MappingProxyType(dict(self.stored))))

    async def put(
        self, key: str, resource: Mapping[str, Any], version: int | None = None
    ) -> bool:
        return await self.replace(
            {key: (self._at(key) if version is None else version, resource)}
        )

    async def delete(self, key: str, version: int | None = None) -> bool:
        return await self.replace(
            {key: (self._at(key) if version is None else version, None)}
        )

    async def replace(
        self, changes: Mapping[str, tuple[int, Mapping[str, Any] | None]]
    ) -> bool:
        if any(self._at(key) != version for key, (version, _) in changes.items()):
            return False
        for key, (_, resource) in changes.items():
            self.index += 1
            self.stored.pop(key, None)
            if resource is not None:
                self.stored[key] = StoredResource(key, resource, self.index)
        await self._tell()
        return True

    # Documents

    async def read(self) -> dict[str, Any]:
        return self.documents

    async def folders(self) -> list[str]:
        return sorted({path.partition("/")[0] for path in self.documents})

    async def create(self, path: str, document: Mapping[str, Any]) -> bool:
        return self.documents.setdefault(path, document) is document

    async def remove(self, folder: str) -> None:
        self.documents = {
            p: d for p, d in self.documents.items() if not p.startswith(f"{folder}/")
        }

    async def close(self) -> None:
        """Nothing is open."""

    def _at(self, key: str) -> int:
        known = self.stored.get(key)
        return known.version if known else 0

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _each_time(self, tell: Callable[[], None]) -> None:
        async with self._changed:
            while True:
                tell()
                await self._changed.wait()


class Running:
    """A control plane over it, with clients."""

    def __init__(
        self, plane: ControlPlane, backend: InMemory, settings: ControlPlaneSettings
    ) -> None:
        self.plane, self.backend, self.settings = plane, backend, settings

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = (self.settings.state_dir / "api.token").read_text()
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://{self.settings.api}{path}"
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.request(method, url, json=body) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    def proxy(self) -> Stream:
        root = (self.settings.trust_dir / "root.pem").read_bytes()
        metadata = (("authorization", f"Bearer {token_of(WEB.name)}"),)
        return Stream(self.settings.xds, root, metadata, node_id(WEB.name), delta=True)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    xds, api, debug = free_ports(3)
    settings = ControlPlaneSettings(
        registry="no such one",
        state_dir=folder / "state",
        trust_dir=folder / "trust",
        xds=f"127.0.0.1:{xds}",
        api=f"127.0.0.1:{api}",
        debug=f"127.0.0.1:{debug}",
    )
    backend = InMemory()
    checked: Backend = backend
    plane, stop = ControlPlane(settings, checked), asyncio.Event()
    task = asyncio.create_task(plane.run(stop))
    try:
        await eventually(lambda: task.done() or not plane.readiness(), 20)
        if task.done():
            task.result()
        yield Running(plane, backend, settings)
    finally:
        stop.set()
        await task


def catalog(address: str) -> Catalog:
    endpoint = Endpoint(address, 9080, id="reviews-1")
    service = Service("reviews", HOST, (Port(9080, Protocol.HTTP),), (endpoint,))
    return Catalog({HOST: service}, {WEB.name: WEB})


async def named(stream: Stream, name: str) -> Any:
    """The resource of this name, as soon as the stream brings it."""
    async with asyncio.timeout(20 * SLACK):
        while True:
            for item in (await stream.answer()).resources:
                if item.name == name:
                    return item


async def timeout_of_reviews(stream: Stream) -> int:
    """In seconds, of the next table of routes."""
    found = await named(stream, "9080")
    table = route_pb2.RouteConfiguration.FromString(found.resource.value)
    [host] = [h for h in table.virtual_hosts if "reviews" in h.domains]
    return int(host.routes[0].route.timeout.seconds)


async def test_a_control_plane_runs_over_a_source_that_it_does_not_know(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        await mesh.backend.serve(catalog("10.0.0.1"))
        await eventually(lambda: HOST in mesh.plane.catalog().services, 10)

        async with mesh.proxy() as stream:
            await stream.ask("*", type_url=CLUSTER)
            assert await named(stream, f"outbound|9080||{HOST}")

            path = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"
            status, answer = await mesh.ask("POST", path, VIRTUAL_SERVICE)
            assert status == 201, answer
            assert [key.rpartition("/")[2] for key in mesh.backend.stored] == [
                "reviews"
            ]
            assert [p for p in mesh.backend.documents if p.endswith("/entry")], (
                "no history"
            )

            await stream.ask("9080", type_url=ROUTES)
            # The table of before may come first: changes are gathered for a tenth of a second.
            while await timeout_of_reviews(stream) != 7:
                continue


async def test_what_the_source_cannot_do_is_refused_and_the_rest_works(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        await mesh.backend.serve(catalog("10.0.0.1"))
        await eventually(lambda: WEB.name in mesh.plane.catalog().workloads, 10)

        status, answer = await mesh.ask("POST", "/mesh/tokens", {"service": "outside"})
        assert status == 409, answer

        async with mesh.proxy() as stream:
            await stream.ask("*", type_url=CLUSTER)
            await stream.answer()
            status, answer = await mesh.ask(
                "POST", "/mesh/tokens/revoke", {"token": WEB.name}
            )
            assert status == 200, answer
            await eventually(lambda: not mesh.plane.proxies(), 10)
        async with mesh.proxy() as again:
            assert "revoked" in (await again.refusal("*"))[1]
