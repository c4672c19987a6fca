"""EnvoyFilters read into Envoy's messages, and the order in which a proxy's patches apply.

Source: Istio `pilot/pkg/model/envoyfilter.go` and `PushContext.EnvoyFilters`. Invariant: a patch
that is no message of Envoy's API, or breaks one of the API's own rules, is never applied; the
reason is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf import json_format

from dockermesh.config.api.envoy_filter import (
    ApplyTo,
    ConfigObjectMatch,
    ConfigPatch,
    EnvoyFilter,
    PatchContext,
    PatchOperation,
)
from dockermesh.config.resource import Resource
from dockermesh.config.rules.regex import occurs_in
from dockermesh.translate.envoy.constraints import violation
from dockermesh.translate.envoy.newer_protos import is_described
from dockermesh.translate.envoy.packing import repack
from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.security.limit_files import called_in, cluster_called

ISTIO_VERSION = "1.28.0"
"""What `match.proxy.proxyVersion` is compared with where a proxy does not say its own: the API that
we follow.
"""
_MESSAGES: Mapping[ApplyTo, Any] = {
    ApplyTo.CLUSTER: cluster_pb2.Cluster,
    ApplyTo.LISTENER: listener_pb2.Listener,
    ApplyTo.LISTENER_FILTER: listener_components_pb2.ListenerFilter,
    ApplyTo.FILTER_CHAIN: listener_components_pb2.FilterChain,
    ApplyTo.NETWORK_FILTER: listener_components_pb2.Filter,
    ApplyTo.HTTP_FILTER: hcm_pb2.HttpFilter,
    ApplyTo.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ApplyTo.VIRTUAL_HOST: route_components_pb2.VirtualHost,
    ApplyTo.HTTP_ROUTE: route_components_pb2.Route,
    ApplyTo.EXTENSION_CONFIG: extension_pb2.TypedExtensionConfig,
}
_INSERTS = frozenset(
    {
        PatchOperation.INSERT_BEFORE,
        PatchOperation.INSERT_AFTER,
        PatchOperation.INSERT_FIRST,
    }
)
_ORDERED = frozenset(
    {
        ApplyTo.HTTP_FILTER,
        ApplyTo.NETWORK_FILTER,
        ApplyTo.LISTENER_FILTER,
        ApplyTo.HTTP_ROUTE,
    }
)
_MERGES = frozenset({PatchOperation.MERGE, PatchOperation.MERGE_AND_REPLACE_LIST})
# Nothing but the packages of the protos: a name in a file must not import other modules.
_TYPE = re.compile(r"(?:envoy|xds|udpa)(?:\.[a-z][a-z0-9_]*)+(?=\.[A-Z])")


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPatch:
    """One patch with its value as a message (None for REMOVE). Compared by identity."""

    source: Resource[EnvoyFilter]
    index: int
    apply_to: ApplyTo
    operation: PatchOperation
    match: ConfigObjectMatch
    value: Any = None
    # By which names it calls the limiter, and for which of these Istio would have a cluster.
    calls: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()

    @property
    def context(self) -> PatchContext:
        """The kind of traffic that it is for."""
        return self.match.context

    @property
    def merges(self) -> bool:
        """Whether the value is merged into what is there."""
        return self.operation in _MERGES

    @property
    def replaces_lists(self) -> bool:
        """Whether lists in the value take the place of those that are there, rather than grow
        them.
        """
        return self.operation is PatchOperation.MERGE_AND_REPLACE_LIST

    def concerns(self, context: PatchContext) -> bool:
        """Whether it is for objects of this context."""
        return self.match.context in (PatchContext.ANY, context)


def of_kind(patches: Iterable[CompiledPatch], kind: ApplyTo) -> list[CompiledPatch]:
    """The patches of one kind of object, in their order."""
    return [patch for patch in patches if patch.apply_to is kind]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledFilter:
    """An EnvoyFilter's patches that can be used, and why others cannot, by their index."""

    source: Resource[EnvoyFilter]
    patches: tuple[CompiledPatch, ...] = ()
    problems: Mapping[int, str] = field(default_factory=dict)


def compile_filter(resource: Resource[EnvoyFilter]) -> CompiledFilter:
    """The resource with its values as messages."""
    patches, problems = [], {}
    for index, entry in enumerate(resource.spec.config_patches):
        try:
            patches.append(_compile(resource, index, entry))
        except _Unusable as error:
            problems[index] = str(error)
    return CompiledFilter(resource, tuple(patches), problems)


class _Unusable(ValueError):
    pass


def _compile(
    resource: Resource[EnvoyFilter], index: int, entry: ConfigPatch
) -> CompiledPatch:
    patch, match = entry.patch, entry.match or ConfigObjectMatch()
    if patch is None:
        raise _Unusable("it has no patch")
    if entry.apply_to is ApplyTo.BOOTSTRAP:
        raise _Unusable("the bootstrap is not patched: it is part of the pod's image")
    if match.context is PatchContext.WAYPOINT or match.waypoint is not None:
        raise _Unusable("there are no waypoints")

    message = _MESSAGES.get(entry.apply_to)
    if message is None:
        raise _Unusable(f"applyTo {entry.apply_to.value} cannot be patched")

    operation = patch.operation
    # Without an order there is no place to insert at; Istio adds such values.
    if operation in _INSERTS and entry.apply_to not in _ORDERED:
        operation = PatchOperation.ADD
    value = None
    if operation is not PatchOperation.REMOVE:
        value = _message(patch.value, message(), is_whole=operation not in _MERGES)

    body = value.SerializeToString() if value is not None else b""
    calls = called_in(body)
    clusters = frozenset(n for n in calls if cluster_called(n).encode() in body)
    return CompiledPatch(
        resource, index, entry.apply_to, operation, match, value, calls, clusters
    )


def _message(value: Mapping[str, Any] | None, message: Any, *, is_whole: bool) -> Any:
    """The value as a message. What is to be merged may lack fields that the whole must have."""
    try:
        # protobuf refuses an Any whose type it has not met.
        _load_types(value)
        json_format.ParseDict(dict(value or {}), message)
        # Once per patch, not once per resource that it is merged into.
        repack(message)
    except (
        json_format.Error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        text = " ".join(str(error).split())
        raise _Unusable(
            f"its value is no {message.DESCRIPTOR.name} of Envoy's API: {text[:300]}"
        ) from None

    # What is merged is checked with the resource that it becomes a part of.
    broken = violation(message) if is_whole else ""
    if broken:
        raise _Unusable(f"Envoy would refuse its value: {broken}")
    return message


def _load_types(value: Any) -> None:
    """Import the protos of every type that is named: protobuf only knows messages whose module was
    imported.
    """
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            for key in ("@type", "type_url", "typeUrl"):
                named = part.get(key)
                if isinstance(named, str):
                    _load_package(named.rpartition("/")[2])

            pending.extend(part.values())
        elif isinstance(part, list | tuple):
            pending.extend(part)


def _load_package(type_name: str) -> None:
    found = _TYPE.match(type_name)
    if found is None:
        return

    package = found.group()
    try:
        folder = resources.files(package)
    except ModuleNotFoundError:
        return

    for file in folder.iterdir():
        name = file.name.removesuffix("_pb2.py")
        if name != file.name and not is_described(
            f"{package.replace('.', '/')}/{name}.proto"
        ):
            import_module(f"{package}.{name}_pb2")


def patches_for(
    proxy: Proxy, filters: Iterable[CompiledFilter], root_namespace: str
) -> tuple[CompiledPatch, ...]:
    """The patches of a proxy in the order in which they apply.

    Those of the root namespace and of its own whose selector it fulfils; by priority, the root's
    first, oldest first. EnvoyFilters with targetRefs select nothing, as in Istio, for what they
    refer to does not exist here.
    """
    chosen = [
        compiled
        for compiled in filters
        if compiled.source.namespace in (root_namespace, proxy.namespace)
        and not compiled.source.spec.target_refs
        and _selects(compiled.source.spec, proxy)
    ]
    # The sort is stable, and the config is ordered by age and name already.
    chosen.sort(
        key=lambda c: (c.source.spec.priority, c.source.namespace != root_namespace)
    )
    return tuple(
        patch
        for compiled in chosen
        for patch in compiled.patches
        if _is_for(patch, proxy)
    )


def _selects(spec: EnvoyFilter, proxy: Proxy) -> bool:
    selector = spec.workload_selector
    return selector is None or all(
        proxy.labels.get(k) == v for k, v in selector.labels.items()
    )


def _is_for(patch: CompiledPatch, proxy: Proxy) -> bool:
    wanted = patch.match.proxy
    if wanted is None:
        return True
    if wanted.proxy_version and not _has_version(wanted.proxy_version, proxy):
        return False
    return all(
        proxy.metadata.get(key) == value for key, value in wanted.metadata.items()
    )


def _has_version(expression: str, proxy: Proxy) -> bool:
    # A proxy says its version itself, in any length.
    version = str(proxy.metadata.get("ISTIO_VERSION", ISTIO_VERSION))[:64]
    return occurs_in(expression, version)
