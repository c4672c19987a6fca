"""What an HTTP connection manager is told of traces.

Nothing in it is of one workload: a proxy's own tags come from its environment, so that listeners
are shared. Source: Istio's `pilot/pkg/networking/core/tracing.go`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.type.tracing.v3.custom_tag_pb2 import CustomTag as EnvoyTag

from dockermesh.config.api.telemetry import CustomTag, WorkloadMode
from dockermesh.model.canonical import UNKNOWN, UNKNOWN_REVISION
from dockermesh.model.contract import (
    ENV_CANONICAL_REVISION,
    ENV_CANONICAL_SERVICE,
    ENV_NAMESPACE,
)
from dockermesh.translate.envoy.packing import boolean, pack, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.telemetry.selection import Levels
from dockermesh.translate.telemetry.trace_merging import TraceSettings, trace_settings
from dockermesh.translate.telemetry.tracers import Tracer, own_tracer, tracer_of
from dockermesh.xds.protobuf import serialised
from dockermesh.xds.resources import CLUSTER, Resource, make_resource

_CLUSTER_ID = "Kubernetes"
"""Istio's name of its only cluster."""


@dataclass(frozen=True, slots=True)
class Tracee:
    """What of a proxy decides how it traces: whether it is a gateway, and at which host it has a
    control plane that takes its spans (empty: nowhere).
    """

    is_gateway: bool = False
    control_plane: str = ""


@dataclass(frozen=True, slots=True)
class Traces:
    """What a proxy's connection managers get, as client and as server, and the clusters that spans
    go to. The former are fields of the manager, serialised.
    """

    client: bytes = b""
    server: bytes = b""
    clusters: tuple[Resource, ...] = ()


NO_TRACES = Traces()


def traces(
    levels: Levels, settings: MeshSettings, names: Mapping[str, str], proxy: Tracee
) -> Traces:
    """What follows from the Telemetry resources for a proxy, the widest first."""
    client, to = _side(levels, settings, names, proxy, WorkloadMode.CLIENT)
    server, and_to = _side(levels, settings, names, proxy, WorkloadMode.SERVER)
    clusters = {cluster.name: cluster for cluster in (*to, *and_to)}
    return Traces(
        client, server, tuple(_resource(clusters[name]) for name in sorted(clusters))
    )


def _side(
    levels: Levels,
    settings: MeshSettings,
    names: Mapping[str, str],
    proxy: Tracee,
    mode: WorkloadMode,
) -> tuple[bytes, tuple[cluster_pb2.Cluster, ...]]:
    has_own = bool(settings.spans_port and proxy.control_plane)
    found = trace_settings(levels, settings, mode, has_own=has_own)
    if found is None:
        return b"", ()

    tracer = (
        tracer_of(found.provider, settings, names)
        if found.provider is not None
        else own_tracer(proxy.control_plane, settings.spans_port)
    )
    if tracer is None:
        return b"", ()
    manager = _manager(found, tracer, is_gateway=proxy.is_gateway)
    return serialised(manager), tracer.clusters


def _manager(
    how: TraceSettings, tracer: Tracer, *, is_gateway: bool
) -> hcm_pb2.HttpConnectionManager:
    manager = hcm_pb2.HttpConnectionManager()
    tracing = manager.tracing
    tracing.provider.CopyFrom(tracer.provider)
    tracing.random_sampling.value = how.sampling
    tracing.custom_tags.extend(_tags(how))
    if how.longest_path:
        tracing.max_path_tag_length.CopyFrom(uint32(how.longest_path))
    if is_gateway:
        # A sidecar has one for what comes and one for what goes; a gateway has but one listener.
        tracing.spawn_upstream_span.CopyFrom(boolean(True))

    if not how.by_request_id:
        extension = uuid_pb2.UuidRequestIdConfig(
            use_request_id_for_trace_sampling=boolean(False)
        )
        manager.request_id_extension.typed_config.CopyFrom(pack(extension))
    return manager


def _tags(how: TraceSettings) -> Iterator[Any]:
    own = {name: _tag(name, of) for name, of in how.tags.items()}
    if how.has_istio_tags:
        # As Istio, whose own come first: of two with one name the last counts.
        yield from (tag for tag in _istio_tags() if tag.tag not in own)
    for name in sorted(own):
        yield own[name]


def _istio_tags() -> Iterator[Any]:
    yield _environment(
        "istio.canonical_revision", ENV_CANONICAL_REVISION, UNKNOWN_REVISION
    )
    yield _environment("istio.canonical_service", ENV_CANONICAL_SERVICE, UNKNOWN)
    yield EnvoyTag(tag="istio.cluster_id", literal=EnvoyTag.Literal(value=_CLUSTER_ID))
    yield EnvoyTag(tag="istio.mesh_id", literal=EnvoyTag.Literal(value=UNKNOWN))
    yield _environment("istio.namespace", ENV_NAMESPACE, "default")


def _environment(tag: str, name: str, otherwise: str) -> Any:
    value = EnvoyTag.Environment(name=name, default_value=otherwise)
    return EnvoyTag(tag=tag, environment=value)


def _tag(name: str, of: CustomTag) -> Any:
    if of.environment is not None:
        return _environment(name, of.environment.name, of.environment.default_value)
    if of.header is not None:
        header = EnvoyTag.Header(
            name=of.header.name, default_value=of.header.default_value
        )
        return EnvoyTag(tag=name, request_header=header)
    if of.formatter is not None:
        return EnvoyTag(tag=name, value=of.formatter.value)
    value = of.literal.value if of.literal is not None else UNKNOWN
    return EnvoyTag(tag=name, literal=EnvoyTag.Literal(value=value))


def _resource(cluster: cluster_pb2.Cluster) -> Resource:
    return make_resource(CLUSTER, cluster.name, serialised(cluster))
