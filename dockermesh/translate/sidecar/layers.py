"""What sidecars have of their own, as layers over what all in their scope share.

Listeners follow from the ports that are served; whose ports they are is in the metadata of clusters
alone. So sidecars in one scope that serve equal ports share one set of listeners, however many
services they belong to, and what is done with listeners later is done once.

Invariant: sets stay the same objects while neither their resources nor the shared ones change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.sidecar.inbound import (
    Inbound,
    Owners,
    app_clusters,
    other_clusters,
)
from dockermesh.translate.sidecar.inbound_listener import inbound_listener
from dockermesh.translate.sidecar.outbound import Counters, named
from dockermesh.xds.resources import CLUSTER, LISTENER, Resource
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(eq=False, slots=True)
class _Made:
    """The resources of one `Inbound`, in whatever scopes."""

    listener: Resource
    others: tuple[Resource, ...]
    clusters: dict[Owners, tuple[Resource, ...]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Layer:
    """The sets of sidecars in one scope that serve equal ports. It stands for both where it is a
    key, since those are long to hash. `asked` are the owners asked for since `forget`.
    """

    scope: Scope
    inbound: Inbound
    listeners: ResourceSet | None = None
    clusters: dict[Owners, ResourceSet] = field(default_factory=dict)
    asked: set[Owners] = field(default_factory=set)


@dataclass(slots=True)
class Layers:
    """All layers of a mesh, made when a sidecar asks for them."""

    counters: Counters
    _layers: dict[tuple[Scope, Inbound], Layer] = field(default_factory=dict)
    _made: dict[Inbound, _Made] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._layers)

    def clear(self) -> None:
        """Let go of everything: what all was made of has changed."""
        self._layers.clear()
        self._made.clear()

    def forget(self) -> None:
        """Let go of what nobody asked for since this was called last, such as replaced policies."""
        self._layers = {
            key: layer for key, layer in self._layers.items() if layer.asked
        }
        kept: dict[Inbound, set[Owners]] = {}
        for layer in self._layers.values():
            layer.clusters = _only(layer.clusters, layer.asked)
            kept.setdefault(layer.inbound, set()).update(layer.asked)
            layer.asked = set()

        self._made = _only(self._made, kept)
        for own, made in self._made.items():
            made.clusters = _only(made.clusters, kept[own])

    def at(self, scope: Scope, inbound: Inbound) -> Layer:
        """The layer of sidecars in this scope that serve this."""
        key = (scope, inbound)
        found = self._layers.get(key)
        if found is None:
            found = self._layers[key] = Layer(scope, inbound)
        return found

    def sets(
        self,
        layer: Layer,
        owners: Owners,
        shared: Snapshot,
        settings: MeshSettings,
        besides: Iterable[Resource],
    ) -> tuple[ResourceSet, ResourceSet]:
        """The clusters and listeners of sidecars whose ports belong to these services: their own
        over the shared ones. `besides` are listeners of all in the scope.
        """
        layer.asked.add(owners)
        listeners = layer.listeners
        if listeners is None or listeners.base is not shared.listeners:
            own = [self._of(layer.inbound, settings).listener, *besides]
            listeners = layer.listeners = ResourceSet(own, base=shared.listeners)

        clusters = layer.clusters.get(owners)
        if clusters is None or clusters.base is not shared.clusters:
            made = self._clusters(layer.inbound, owners, settings)
            clusters = ResourceSet(made, base=shared.clusters)
            layer.clusters[owners] = clusters

        return clusters, listeners

    def _of(self, inbound: Inbound, settings: MeshSettings) -> _Made:
        found = self._made.get(inbound)
        if found is None:
            self.counters.inbound += 1
            others = other_clusters(inbound, settings)
            found = self._made[inbound] = _Made(
                named(LISTENER, inbound_listener(inbound, settings)),
                tuple(named(CLUSTER, cluster) for cluster in others),
            )
        return found

    def _clusters(
        self, inbound: Inbound, owners: Owners, settings: MeshSettings
    ) -> tuple[Resource, ...]:
        made = self._of(inbound, settings)
        found = made.clusters.get(owners)
        if found is None:
            to_app = (named(CLUSTER, c) for c in app_clusters(inbound, owners))
            found = made.clusters[owners] = (*to_app, *made.others)
        return found


def _only(known: dict[_K, _V], wanted: Iterable[_K]) -> dict[_K, _V]:
    return {key: known[key] for key in wanted if key in known}
