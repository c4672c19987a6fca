"""What this host's registrar knows and Consul does not say, because it is away.

A pod that starts, or is restarted, meanwhile has an address and a token that nobody could write
down. The control plane whose registrar saw it takes it from here. Other control planes wait for
Consul.

Invariants: while Consul is followed, it alone counts; what is shown of here goes when it is
written. An instance of which nothing is new is shown as Consul said it, so no proxy is sent
anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from dockermesh.model import Endpoint, Health, Workload
from dockermesh.registrar.desired import Desired
from dockermesh.registrar.mapping import Registration
from dockermesh.registrar.sink import Sink
from dockermesh.registry.consul.assembly import Instances
from dockermesh.registry.consul.convert import Instance, convert_entries

# Seconds that what was written is shown on: Consul's watches tell of it a moment later.
_LINGER_S = 3.0


class Unwritten:
    """What could not be written yet, by group; a group has one workload at most, and its name."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._groups: dict[str, Desired] = {}
        self._shown: dict[str, Desired] = {}
        # What is shown, by its name in Consul.
        self._by_name: dict[str, list[Registration]] = {}
        # Consul's word for where a host is, by what a host knows of that.
        self._localities: dict[str, str] = {}

    def take(self, group: str, desired: Desired) -> None:
        """A group that is about to be written."""
        self._groups[group] = desired
        self.on_change()

    def written(self, group: str, desired: Desired) -> None:
        """Consul has it."""
        loop = asyncio.get_running_loop()
        loop.call_later(_LINGER_S, self._forget, group, desired)

    def _forget(self, group: str, desired: Desired) -> None:
        if self._groups.get(group) is desired:
            del self._groups[group]
            self.on_change()

    def show(self, *, is_away: bool) -> bool:
        """Decide what counts now: all of it while Consul is away, and then what of that is not
        written yet. True if that changed.
        """
        groups = self._groups if is_away else self._shown.keys() & self._groups.keys()
        shown = {group: self._groups[group] for group in groups}
        before, self._shown = self._shown, shown
        is_changed = shown != before
        if is_changed:
            self._by_name = _by_name(shown.values())
        return is_changed

    def over_workloads(self, known: Mapping[str, Workload]) -> Mapping[str, Workload]:
        """The workloads of Consul, with those that count here in their place."""
        if not self._shown:
            return known
        kept = {name: w for name, w in known.items() if name not in self._shown}
        own = [w for desired in self._shown.values() for w in desired.workloads]
        return kept | {w.name: w.aged(known.get(w.name)) for w in own}

    def services(self) -> set[str]:
        """The names in Consul under which something is to be registered."""
        return set(self._by_name)

    def over_instances(
        self, name: str, known: Instances, *, allow_loopback: bool
    ) -> Instances:
        """The instances of a service in Consul, with those that count here in their place."""
        self._learn_localities(known)
        if not self._shown:
            return known

        registrations = {r.id: r for r in self._by_name.get(name, ())}
        told = {i.endpoint.id: i for i in known}
        entries = [_entry(r) for r in registrations.values()]
        own = [
            self._completed(made, told.get(made.endpoint.id), registrations)
            for made in convert_entries(
                entries, allow_loopback=allow_loopback
            ).instances
        ]

        ids = {i.endpoint.id for i in own}
        kept = (
            i
            for i in known
            if i.endpoint.id not in ids and i.endpoint.workload not in self._shown
        )
        return (*kept, *own)

    def _learn_localities(self, known: Instances) -> None:
        for instance in known:
            locality = instance.endpoint.locality
            self._localities[_on_host(locality)] = locality

    def _completed(
        self,
        own: Instance,
        told: Instance | None,
        registrations: Mapping[str, Registration],
    ) -> Instance:
        """`own` with what only Consul knows; `told` is what it said of this instance last."""
        endpoint = own.endpoint
        place = _on_host(endpoint.locality)
        locality = self._localities.get(place, endpoint.locality)
        if told is None or not _is_same(endpoint, told.endpoint):
            return replace(own, endpoint=replace(endpoint, locality=locality))

        asks = registrations[endpoint.id].check is not None
        health = _health(endpoint.health, told.endpoint.health, consul_asks=asks)
        return replace(told, endpoint=replace(told.endpoint, health=health))


class TellingSink:
    """A sink that keeps `unwritten` up to date."""

    def __init__(self, sink: Sink, unwritten: Unwritten) -> None:
        self._sink = sink
        self._unwritten = unwritten

    async def run(self, resync: Callable[[], None]) -> None:
        """As the sink's."""
        await self._sink.run(resync)

    async def refresh(self) -> None:
        """As the sink's."""
        await self._sink.refresh()

    async def apply(self, group: str, desired: Desired) -> None:
        """As the sink's; until it is done the group is unwritten."""
        self._unwritten.take(group, desired)
        await self._sink.apply(group, desired)
        self._unwritten.written(group, desired)

    async def retain(self, groups: Collection[str]) -> None:
        """As the sink's."""
        await self._sink.retain(groups)


def _by_name(groups: Iterable[Desired]) -> dict[str, list[Registration]]:
    found: dict[str, list[Registration]] = {}
    for desired in groups:
        for registration in desired.registrations:
            found.setdefault(registration.name, []).append(registration)
    return found


def _on_host(locality: str) -> str:
    """A locality without its region, which a host does not know of itself."""
    return locality.partition("/")[2]


def _is_same(own: Endpoint, told: Endpoint) -> bool:
    """Whether nothing but what Consul adds, and health, may differ."""
    completed = replace(
        own, health=told.health, weight=told.weight, locality=told.locality
    )
    return completed == told


def _health(own: Health, told: Health, *, consul_asks: bool) -> Health:
    # Maintenance is told to Consul alone, and so is what comes of the checks that it runs.
    is_consuls = told is Health.DRAINING or (consul_asks and own is Health.HEALTHY)
    return told if is_consuls else own


def _entry(registration: Registration) -> dict[str, Any]:
    """What Consul would list of it."""
    body = registration.body()
    health = registration.health
    checks = [{"Status": health.status}] if health is not None else []
    return {"Node": {}, "Service": body, "Checks": checks}
