"""Docker alone as the registry: the registrar's desired state published as catalogs, without
Consul.

Invariant: nothing is published before all containers were seen once, so that a start never empties
the mesh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from dockermesh.model import EMPTY_CATALOG, Catalog
from dockermesh.model.contract import META_WORKLOAD
from dockermesh.registrar.desired import Desired
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Engine, Registrar
from dockermesh.registry.docker.catalog import build_catalog
from dockermesh.registry.protocols import Publish, Tls

# Changes that come together make one catalog; short, since a stopping endpoint must leave before
# its process is gone.
_COALESCE = 0.005


class CatalogSink:
    """A sink that gives each new catalog to `publish`."""

    def __init__(self, publish: Publish, domain: str) -> None:
        self._publish = publish
        self._domain = domain
        self._groups: dict[str, Desired] = {}
        self._expected: set[str] | None = None
        self._catalog: Catalog = EMPTY_CATALOG
        self._changed = asyncio.Event()
        self._published = False

    async def run(self, resync: Callable[[], None]) -> None:
        """Publish for ever; nothing here is ever lost, so `resync` is not called."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_COALESCE)
            self._changed.clear()
            # Half of the containers would be half of the mesh.
            if self._expected is None or not self._expected <= self._groups.keys():
                continue
            self._expected = set()
            self._emit()

    async def refresh(self) -> None:
        """Nothing to learn: this sink is the only copy."""

    async def apply(self, group: str, desired: Desired) -> None:
        """Take over the group's state."""
        before = self._groups.get(group)
        known = {w.name: w for w in before.workloads} if before else {}
        aged = tuple(w.aged(known.get(w.name)) for w in desired.workloads)
        desired = replace(desired, workloads=aged)
        if before != desired:
            self._groups[group] = desired
            self._changed.set()

    async def retain(self, groups: Collection[str]) -> None:
        """Forget all other groups; the first call says which groups must be seen before anything is
        published.
        """
        if not self._published:
            self._expected = (
                set(groups) if self._expected is None else self._expected & set(groups)
            )
            self._changed.set()
        # Gone while nobody looked: there was no event for it.
        for group in self._groups.keys() - set(groups):
            del self._groups[group]
            self._changed.set()

    def _emit(self) -> None:
        # A container that was just attached is registered as both for a moment: with its proxy.
        found = [r for d in self._groups.values() for r in d.registrations]
        found.sort(key=lambda r: META_WORKLOAD in r.meta)
        registrations = {r.id: r for r in found}.values()
        workloads = [w for d in self._groups.values() for w in d.workloads]
        catalog = build_catalog(
            registrations, workloads, self._catalog, domain=self._domain
        )
        if catalog != self._catalog or not self._published:
            self._published = True
            self._catalog = catalog
            self._publish(catalog)


class DockerRegistry:
    """Publishes what one engine runs."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        *,
        domain: str,
        heal: bool = True,
        tls: Tls | None = None,
        told: Callable[[str], None] = lambda _problem: None,
        healed: Callable[[str, str], None] = lambda _role, _verb: None,
    ) -> None:
        self._told = told
        self._healed = healed
        self._engine = engine
        self._options = options
        self._domain = domain
        self._heal = heal
        self._tls = tls

    async def run(self, publish: Publish) -> None:
        """Follow the engine for ever; cancel to stop."""
        sink = CatalogSink(publish, self._domain)
        await Registrar(
            self._engine,
            sink,
            self._options,
            heal=self._heal,
            tls=self._tls,
            told=self._told,
            healed=self._healed,
        ).run()
