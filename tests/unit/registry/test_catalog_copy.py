"""The catalog's copy says what was published, and is used where Consul is away at the start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import MappingProxyType

from patience import SLACK

from dockermesh.consul.settings import ConsulSettings
from dockermesh.model import Catalog, Endpoint, Health, Protocol, ServedPort, Workload
from dockermesh.registry.consul.catalog_copy import CatalogCopy
from dockermesh.registry.consul.convert import Instance
from dockermesh.registry.consul.registry import ConsulRegistry
from dockermesh.registry.grace import Grace

WEB = Workload(
    "pod",
    "shop/web-1",
    "web",
    address="10.0.0.1",
    token_sha256="d" * 64,
    ports=(ServedPort("web", 80, "http"),),
    labels=MappingProxyType({"version": "v1"}),
    since=MappingProxyType({"web": 7}),
)
INSTANCE = Instance(
    Endpoint(
        "10.0.0.1",
        80,
        id="web-1",
        labels=MappingProxyType({"version": "v1"}),
        health=Health.UNHEALTHY,
        workload=WEB.name,
        weight=3,
        gave_way="web-1 other",
    ),
    Protocol.HTTP,
    "web",
)


def kept(tmp_path: Path) -> CatalogCopy:
    copy = CatalogCopy(tmp_path / "state" / "catalog.copy.json")
    copy.save({"web": (INSTANCE,)}, {WEB.name: WEB})
    assert not copy.problem
    return copy


def test_what_is_kept_is_what_was_published(tmp_path: Path) -> None:
    copied = kept(tmp_path).load()
    assert copied is not None
    assert copied.instances == {"web": (INSTANCE,)}
    assert copied.workloads == {WEB.name: WEB}


def test_a_copy_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    file = tmp_path / "catalog.copy.json"
    assert CatalogCopy(file).load() is None
    for content in ("", "[]", '{"services": {"a": [[]]}, "workloads": [], "at": ""}'):
        file.write_text(content)
        assert CatalogCopy(file).load() is None


async def test_it_is_published_whichever_query_fails_first(tmp_path: Path) -> None:
    registry = ConsulRegistry(
        ConsulSettings(port=1), copy=kept(tmp_path), grace=Grace(0)
    )
    # Told already: nobody is woken when the others fail, too.
    registry._outages.failed("the workload records", OSError())
    published: asyncio.Queue[Catalog] = asyncio.Queue()
    running = asyncio.create_task(registry.run(published.put_nowait))
    async with asyncio.timeout(5 * SLACK):
        catalog = await published.get()
    running.cancel()
    assert catalog.workloads == {WEB.name: WEB}
    assert catalog.services["web.service.consul"].endpoints == (INSTANCE.endpoint,)
    assert "copy of" in catalog.degraded
