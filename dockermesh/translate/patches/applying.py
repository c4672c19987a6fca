"""Patches applied to the snapshot of a proxy, each resource once for all proxies with the same
patches.

Invariants: a resource that no patch changes stays the same object, and so do sets of such
resources; a patch that would make Envoy refuse a resource is left out of it, and the other patches
are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import any_pb2

from dockermesh.config.api.envoy_filter import ApplyTo, PatchContext, PatchOperation
from dockermesh.translate.clusters.limiter import limiter_cluster
from dockermesh.translate.envoy.names import (
    DNS_LISTENER,
    INBOUND_PASSTHROUGH_CLUSTER,
    VIRTUAL_INBOUND,
)
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.patches.clusters import patch_cluster, towards_limiter
from dockermesh.translate.patches.compiling import CompiledPatch
from dockermesh.translate.patches.listeners import patch_listener
from dockermesh.translate.patches.merging import CannotMerge
from dockermesh.translate.patches.routes import patch_table
from dockermesh.translate.patches.soundness import (
    cluster_fault,
    listener_fault,
    table_fault,
)
from dockermesh.translate.security.limit_files import cluster_called
from dockermesh.xds.resources import (
    CLUSTER,
    EXTENSION,
    LISTENER,
    ROUTES,
    Resource,
    make_resource,
)
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_Patches = Sequence[CompiledPatch]
_OUR_OWN = frozenset({DNS_LISTENER})
"""What Istio's proxies have no counterpart of: a patch without conditions must not hit it."""
_ROUTES = frozenset(
    {ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE}
)
_LISTENERS = frozenset(
    {
        ApplyTo.LISTENER,
        ApplyTo.LISTENER_FILTER,
        ApplyTo.FILTER_CHAIN,
        ApplyTo.NETWORK_FILTER,
        ApplyTo.HTTP_FILTER,
    }
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the resources of one type are patched."""

    type_url: str
    message: Any
    targets: frozenset[ApplyTo]
    added_by: ApplyTo
    fault: Callable[[Any], str]


_CLUSTERS_KIND = _Kind(
    CLUSTER,
    cluster_pb2.Cluster,
    frozenset({ApplyTo.CLUSTER}),
    ApplyTo.CLUSTER,
    cluster_fault,
)
_LISTENERS_KIND = _Kind(
    LISTENER,
    listener_pb2.Listener,
    # Inbound, the connection manager holds its routes itself.
    _LISTENERS | _ROUTES,
    ApplyTo.LISTENER,
    listener_fault,
)
# No patch adds a table: a proxy asks for those that its listeners name.
_ROUTES_KIND = _Kind(
    ROUTES, route_pb2.RouteConfiguration, _ROUTES, ApplyTo.INVALID, table_fault
)
_KINDS = (_CLUSTERS_KIND, _LISTENERS_KIND, _ROUTES_KIND)


@dataclass(slots=True)
class Patcher:
    """Applies one sequence of patches to the snapshots of proxies of one kind."""

    patches: tuple[CompiledPatch, ...]
    is_gateway: bool
    hosts: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    settings: MeshSettings = field(default_factory=MeshSettings)
    problems: dict[CompiledPatch, str] = field(default_factory=dict)
    is_used: bool = True
    # By which names the limiter is called where Istio would have a cluster for it.
    _limiters: tuple[str, ...] = field(init=False)
    _changed: dict[str, set[str]] = field(default_factory=dict)
    _refused: dict[str, set[str]] = field(default_factory=dict)
    _resources: dict[Resource, Resource | None] = field(default_factory=dict)
    _sets: dict[ResourceSet, ResourceSet] = field(default_factory=dict)
    _whole: dict[Snapshot, Snapshot] = field(default_factory=dict)
    # What was made for the last state: most of its resources come again.
    _former: dict[Resource, Resource | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = {n for p in self.patches for n in p.clusters & self._called(p)}
        self._limiters = tuple(sorted(wanted))

    def age(self) -> None:
        """The state of the mesh has moved on: forget what is not asked for until the next time."""
        if self._resources:
            self._former, self._resources = self._resources, {}
        self._sets, self._whole = {}, {}
        self.is_used = False

    def distrust(self, type_url: str, reason: str) -> bool:
        """Leave what Envoy refused as it is without patches. Returns whether that changes anything.

        Its reason names listeners and clusters; of route tables it need not.
        """
        kind = next((k for k in _KINDS if k.type_url == type_url), None)
        names = self._blamed(type_url, reason)
        refused = self._refused.setdefault(type_url, set())
        # Refused without any patch of it, so it is not the patches that are wrong.
        if kind is None or names <= refused:
            return False

        refused |= names
        for patch in self.patches:
            if patch.apply_to in kind.targets:
                self.problems[patch] = (
                    f"not applied to {', '.join(sorted(names))}: a proxy refused it: {reason[:500]}"
                )

        self._resources, self._former, self._sets, self._whole = {}, {}, {}, {}
        return True

    def filters_of(self, type_url: str, name: str) -> frozenset[str]:
        """The EnvoyFilters of which a resource has a patch."""
        kind = next((k for k in _KINDS if k.type_url == type_url), None)
        if kind is None or name not in self._changed.get(type_url, ()):
            return frozenset()
        context = self._context(name)
        return frozenset(
            str(patch.source)
            for patch in self.patches
            if patch.apply_to in kind.targets and patch.concerns(context)
        )

    def _blamed(self, type_url: str, reason: str) -> set[str]:
        """The changed resources that a refusal can be about."""
        changed = self._changed.get(type_url, set())
        named = {name for name in changed if name in reason}
        return named or (changed if type_url == ROUTES else set())

    def apply(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the patches; the same object where they change nothing."""
        found = self._whole.get(snapshot)
        if found is None:
            found = self._whole[snapshot] = self._apply(snapshot)
        return found

    def _apply(self, snapshot: Snapshot) -> Snapshot:
        changed = {
            "clusters": self._patch_set(snapshot.clusters, _CLUSTERS_KIND),
            "listeners": self._patch_set(snapshot.listeners, _LISTENERS_KIND),
            "routes": self._patch_set(snapshot.routes, _ROUTES_KIND),
            "extensions": self._extensions(snapshot.extensions),
        }
        changed = {
            name: value
            for name, value in changed.items()
            if value is not getattr(snapshot, name)
        }
        return replace(snapshot, **changed) if changed else snapshot

    def _patch_set(self, resources: ResourceSet, kind: _Kind) -> ResourceSet:
        is_for_limiter = kind is _CLUSTERS_KIND and bool(self._limiters)
        is_patched = any(p.apply_to in kind.targets for p in self.patches)
        if not is_patched and not is_for_limiter:
            return resources
        found = self._sets.get(resources)
        if found is None:
            found = self._sets[resources] = self._make_set(resources, kind)
        return found

    def _make_set(self, resources: ResourceSet, kind: _Kind) -> ResourceSet:
        base = resources.base
        if base is not None:
            base = self._patch_set(base, kind)

        own = [*resources.own.values()]
        made = [new for old in own if (new := self._patched(old, kind)) is not None]
        if base is None:
            # In the layer that all proxies share, once.
            made += self._added(resources, kind)

        # Resources are compared by identity.
        is_same = base is resources.base and made == own
        return resources if is_same else ResourceSet(made, base=base)

    def _patched(self, resource: Resource, kind: _Kind) -> Resource | None:
        if resource in self._resources:
            return self._resources[resource]
        if resource in self._former:
            made = self._former[resource]
        else:
            context = self._context(resource.name)
            own = [
                p
                for p in self.patches
                if p.apply_to in kind.targets and p.concerns(context)
            ]
            is_left = resource.name in _OUR_OWN or resource.name in self._refused.get(
                kind.type_url, ()
            )
            made = self._make(resource, own, kind) if own and not is_left else resource

        if made is not resource:
            self._changed.setdefault(kind.type_url, set()).add(resource.name)
        self._resources[resource] = made
        return made

    def _context(self, name: str) -> PatchContext:
        if self.is_gateway:
            return PatchContext.GATEWAY
        # These names are a sidecar's inbound ones; all its others are outbound.
        is_inbound = name in (
            VIRTUAL_INBOUND,
            INBOUND_PASSTHROUGH_CLUSTER,
        ) or name.startswith("inbound|")
        return (
            PatchContext.SIDECAR_INBOUND
            if is_inbound
            else PatchContext.SIDECAR_OUTBOUND
        )

    # one resource
    # ----------------------------------------------------------------------------------------------

    def _make(
        self, resource: Resource, patches: _Patches, kind: _Kind
    ) -> Resource | None:
        body = any_pb2.Any.FromString(resource.any_bytes).value
        original = kind.message.FromString(body)
        message, fault = self._attempt(body, patches, kind)
        if fault:
            # What is wrong without any patch is not held against them.
            known = kind.fault(original)
            message = self._one_by_one(body, patches, kind, known)

        if message is None:
            return None
        if message == original:
            return resource
        return make_resource(
            kind.type_url, resource.name, message.SerializeToString(deterministic=True)
        )

    def _attempt(self, body: bytes, patches: _Patches, kind: _Kind) -> tuple[Any, str]:
        """The patched message (None: removed), and why it may not be used."""
        message = kind.message.FromString(body)
        name = message.name

        try:
            stays = self._run(message, patches, kind)
        # A patch can be sound by itself and still not go with this object.
        except (CannotMerge, TypeError, ValueError) as error:
            return message, str(error)

        if not stays:
            return None, ""
        # Others refer to it by this name, and sets are kept by it.
        if message.name != name:
            return message, f"{name} must keep its name"
        return message, kind.fault(message)

    def _run(self, message: Any, patches: _Patches, kind: _Kind) -> bool:
        if kind is _CLUSTERS_KIND:
            return patch_cluster(message, patches, self.hosts, self.names)
        if kind is _LISTENERS_KIND:
            return patch_listener(message, patches, self._patch_inline)
        self._patch_inline(message, patches)
        return True

    def _patch_inline(self, table: Any, patches: _Patches) -> None:
        patch_table(table, patches, is_gateway=self.is_gateway)

    def _one_by_one(
        self, body: bytes, patches: _Patches, kind: _Kind, known: str
    ) -> Any:
        """The message with every patch that it can have; the others are noted."""
        kept: list[CompiledPatch] = []
        best, _ = self._attempt(body, (), kind)

        for patch in patches:
            message, fault = self._attempt(body, [*kept, patch], kind)
            if fault and fault != known:
                self.problems[patch] = (
                    f"not applied to {best.name if best is not None else 'a resource'}: {fault}"
                )
                continue

            kept.append(patch)
            best = message

        return best

    # whole resources
    # ----------------------------------------------------------------------------------------------

    def _added(self, present: ResourceSet, kind: _Kind) -> list[Resource]:
        """The resources that patches add. One that is there already is not replaced."""
        made: dict[str, Resource] = {}
        for called in self._limiters if kind is _CLUSTERS_KIND else ():
            name = cluster_called(called)
            if name not in present:
                cluster = limiter_cluster(self.settings, name, called)
                made[name] = make_resource(
                    CLUSTER, name, cluster.SerializeToString(deterministic=True)
                )

        for patch in self._additions(kind.added_by):
            value = patch.value
            if kind is _CLUSTERS_KIND:
                value = towards_limiter(value, self._called(patch), self.settings)
            name, fault = value.name, kind.fault(value)
            if name in present or name in made:
                fault = f"{name} exists already"
            if fault or not name:
                self.problems[patch] = f"not added: {fault or 'it has no name'}"
                continue

            self._changed.setdefault(kind.type_url, set()).add(name)
            if name not in self._refused.get(kind.type_url, ()):
                made[name] = make_resource(
                    kind.type_url,
                    name,
                    value.SerializeToString(deterministic=True),
                )

        return list(made.values())

    def _called(self, patch: CompiledPatch) -> frozenset[str]:
        """By which names a patch calls the limiter: names of the mesh's services are no such."""
        return frozenset(name for name in patch.calls if name not in self.names)

    def _additions(self, kind: ApplyTo) -> Iterable[CompiledPatch]:
        contexts = {PatchContext.ANY, PatchContext.GATEWAY}
        # What is new belongs to no traffic yet, so either direction of a sidecar will do.
        if not self.is_gateway:
            contexts = {
                PatchContext.ANY,
                PatchContext.SIDECAR_OUTBOUND,
                PatchContext.SIDECAR_INBOUND,
            }

        return (
            patch
            for patch in self.patches
            if patch.apply_to is kind
            and patch.operation is PatchOperation.ADD
            and patch.context in contexts
        )

    def _extensions(self, present: ResourceSet) -> ResourceSet:
        made = {
            patch.value.name: make_resource(
                EXTENSION,
                patch.value.name,
                patch.value.SerializeToString(deterministic=True),
            )
            for patch in self._additions(ApplyTo.EXTENSION_CONFIG)
            if patch.value.name
        }
        return ResourceSet(made.values(), base=present) if made else present
