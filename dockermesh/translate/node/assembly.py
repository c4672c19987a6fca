"""One snapshot of the snapshots that a node's workloads would have as sidecars.

Clusters and endpoints of equal names are the same in almost every view, and are there once; route
tables have the name of their view. Where two views differ in what only one name can have, the
workload that comes later is left out: its connections are refused rather than led by another's
rules.

Invariant: what did not change is the same object as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from envoy.config.listener.v3 import listener_pb2
from google.protobuf import any_pb2

from dockermesh.translate.envoy import names
from dockermesh.translate.node.listeners import (
    Place,
    inbound_listener,
    names_listener,
    outbound_listener,
)
from dockermesh.translate.node.outbound import shared_outbound
from dockermesh.xds.protobuf import serialised
from dockermesh.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    ROUTES,
    SECRET,
    Resource,
)
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_MOVED = {names.VIRTUAL_INBOUND: inbound_listener, names.DNS_LISTENER: names_listener}
"""Listeners of a sidecar's that a workload has for itself, and what makes them its own."""
_MERGED = (CLUSTER, ENDPOINTS, ROUTES, SECRET, EXTENSION)


@dataclass(frozen=True, slots=True)
class Part:
    """A workload, and what it would have as a sidecar."""

    place: Place
    snapshot: Snapshot


@dataclass(slots=True)
class NodeAssembly:
    """The snapshot of one node's proxy, made anew by `assemble`. `problems` tell why a workload is
    left out.
    """

    problems: Mapping[str, str] = field(default_factory=dict)
    _last: Snapshot = field(default_factory=Snapshot)
    _outbound: dict[ResourceSet, bytes] = field(default_factory=dict)
    _read: dict[Resource, listener_pb2.Listener] = field(default_factory=dict)
    _listeners: dict[object, Resource] = field(default_factory=dict)

    def assemble(self, parts: Iterable[Part]) -> Snapshot:
        """The snapshot of these workloads."""
        known = sorted(
            (part for part in parts if part.place.is_known),
            key=lambda part: part.place.workload,
        )
        union = _Union()
        taken = [part for part in known if union.take(part)]
        self.problems = union.problems
        listeners = self._listeners_of(taken)

        last, found = self._last, union.found
        made = Snapshot(
            clusters=_keep(last.clusters, found[CLUSTER].values()),
            endpoints=_keep(last.endpoints, found[ENDPOINTS].values()),
            listeners=_keep(last.listeners, listeners),
            routes=_keep(last.routes, found[ROUTES].values()),
            secrets=_keep(last.secrets, found[SECRET].values()),
            extensions=_keep(last.extensions, found[EXTENSION].values()),
        )
        # Of equal sets it is the same snapshot, for which nobody has to do anything.
        self._last = last if made == last else made
        return self._last

    def _listeners_of(self, parts: Iterable[Part]) -> list[Resource]:
        # New each time: what was made of workloads and views that are gone is forgotten.
        outbound, self._outbound = self._outbound, {}
        read, self._read = self._read, {}
        before, self._listeners = self._listeners, {}

        for part in parts:
            shared = _shared(part.snapshot)
            body = self._outbound.get(shared) or outbound.get(shared)
            if body is None:
                listeners = (_message(resource) for resource in shared.values())
                body = serialised(shared_outbound(listeners))
            self._outbound[shared] = body
            key: object = (part.place, body)
            made = before.get(key)
            self._listeners[key] = made or outbound_listener(part.place, body)

            for name, build in _MOVED.items():
                own = part.snapshot.listeners.get(name)
                if own is None:
                    continue
                sidecars = self._read.get(own) or read.get(own) or _message(own)
                self._read[own] = sidecars
                key = (part.place, own)
                self._listeners[key] = before.get(key) or build(part.place, sidecars)

        return list(self._listeners.values())


@dataclass(slots=True)
class _Union:
    """Resources by type and name, of all parts that agree on them."""

    found: dict[str, dict[str, Resource]] = field(
        default_factory=lambda: {type_url: {} for type_url in _MERGED}
    )
    problems: dict[str, str] = field(default_factory=dict)
    _taken: set[ResourceSet] = field(default_factory=set)

    def take(self, part: Part) -> bool:
        """Add what a part has. Returns whether it agrees with all that is there."""
        for type_url in _MERGED:
            there = self.found[type_url]
            for resource in self._new(part.snapshot.of(type_url)):
                other = there.get(resource.name)
                if other is not None and other.version != resource.version:
                    workload = part.place.workload
                    self.problems[workload] = (
                        f"{workload} is left out at its node: another workload there has another"
                        f" {resource.name}"
                    )
                    return False

        for type_url in _MERGED:
            resources = part.snapshot.of(type_url)
            there = self.found[type_url]
            there.update((r.name, r) for r in self._new(resources))
            self._taken.add(_base(resources))
        return True

    def _new(self, resources: ResourceSet) -> Iterator[Resource]:
        """Those that no part before had, as far as that is known without a look at each."""
        if _base(resources) in self._taken:
            return iter(resources.own.values() if resources.base is not None else ())
        return resources.values()


def _shared(snapshot: Snapshot) -> ResourceSet:
    """The listeners that all workloads of the view have."""
    return _base(snapshot.listeners)


def _base(resources: ResourceSet) -> ResourceSet:
    # An empty one is false.
    return resources.base if resources.base is not None else resources


def _message(resource: Resource) -> listener_pb2.Listener:
    listener = listener_pb2.Listener()
    any_pb2.Any.FromString(resource.any_bytes).Unpack(listener)
    return listener


def _keep(old: ResourceSet, resources: Iterable[Resource]) -> ResourceSet:
    new = ResourceSet(resources)
    return old if new.version == old.version else new
