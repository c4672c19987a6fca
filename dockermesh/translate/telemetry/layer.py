"""The listeners of proxies with what Telemetry adds to them, made of those without.

It is added to what is translated already, so services and scopes are translated once whoever logs,
measures or traces what, and no listener that will be thought of later can be forgotten. Invariants:
where nothing is added, snapshots stay the same objects; equal additions and listeners give the same
objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2

from dockermesh.model import WorkloadKind
from dockermesh.model.contract import CONTROL_PLANE_HOST, NODE_CONTROL_PLANE
from dockermesh.translate.envoy.names import NOT_OF_APPS, VIRTUAL_INBOUND
from dockermesh.translate.envoy.packing import uint32
from dockermesh.translate.envoy.rewriting import Rewriting
from dockermesh.translate.mesh.settings import IstioConfig, MeshSettings
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.visibility import Labels, as_labels
from dockermesh.translate.telemetry.access_logs import (
    NO_LOGS,
    AccessLogs,
    Loggers,
    access_logs,
)
from dockermesh.translate.telemetry.metrics import (
    NO_METERS,
    NO_METRICS,
    Meters,
    Metrics,
    metrics,
)
from dockermesh.translate.telemetry.peers import is_mutual, peer_filter
from dockermesh.translate.telemetry.selection import Levels, TelemetryIndex
from dockermesh.translate.telemetry.tracing import Tracee, traces
from dockermesh.xds.protobuf import frame, serialised
from dockermesh.xds.resources import LISTENER, Resource, make_resource
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_HTTP = hcm_pb2.HttpConnectionManager.DESCRIPTOR.full_name
_TCP = tcp_proxy_pb2.TcpProxy.DESCRIPTOR.full_name
_LOGGERS_OF_HTTP = hcm_pb2.HttpConnectionManager.ACCESS_LOG_FIELD_NUMBER
_LOGGERS_OF_TCP = tcp_proxy_pb2.TcpProxy.ACCESS_LOG_FIELD_NUMBER
_TELL_WHEN_CONNECTED = serialised(
    tcp_proxy_pb2.TcpProxy(access_log_options={"flush_access_log_on_connected": True})
)
_CONNECT_WHEN_KNOWN = serialised(
    tcp_proxy_pb2.TcpProxy(
        upstream_connect_mode="ON_DOWNSTREAM_TLS_HANDSHAKE",
        # Envoy wants it; before the handshake there are none.
        max_early_data_bytes=uint32(16_384),
    )
)
"""Else a connection may be reported as opened before the handshake has told whose it is."""
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, slots=True)
class Additions:
    """What a proxy's listeners are to have besides. It is a key: proxies with equal ones share
    them. `client_traces` and `server_traces` are fields of a connection manager, serialised.
    """

    logs: AccessLogs = NO_LOGS
    metrics: Metrics = NO_METRICS
    client_traces: bytes = b""
    server_traces: bytes = b""
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Once: it is asked for at every proxy.
        content = (self.logs, self.metrics, self.client_traces, self.server_traces)
        object.__setattr__(self, "_hash", hash(content))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class _OfSide:
    """The part for one side; `mutual` and `plain` are about chains with and without mutual TLS."""

    loggers: Loggers
    mutual: Meters
    plain: Meters
    traces: bytes
    is_server: bool

    def __bool__(self) -> bool:
        has_more = bool(self.mutual or self.plain or self.traces)
        return has_more or bool(self.loggers.of_requests)


NOTHING = Additions()


@dataclass(frozen=True, slots=True)
class _Added:
    """What a snapshot is to have besides."""

    to_listeners: Additions = NOTHING
    clusters: tuple[Resource, ...] = ()


_NOTHING = _Added()


class TelemetryLayer:
    """Adds to snapshots what the Telemetry resources of one generation of the config say."""

    def __init__(self, mesh: MeshState | None = None) -> None:
        mesh = mesh or MeshState()
        self._config: IstioConfig = mesh.config
        self._settings: MeshSettings = mesh.settings
        self._names = mesh.names
        self._index = TelemetryIndex(mesh.config, mesh.settings.root_namespace)
        self._of_levels: dict[tuple[Tracee, tuple[str, ...]], _Added] = {}
        self._levels_of: dict[tuple[str, Labels], Levels] = {}
        self._snapshots: dict[tuple[Snapshot, _Added], Snapshot] = {}
        self._clusters: dict[tuple[ResourceSet, tuple[Resource, ...]], ResourceSet] = {}
        self._rewritten = Rewriting(_side, _with_additions)

    def follow(self, before: TelemetryLayer) -> None:
        """Go on with what the layer of the config before has made."""
        self._rewritten = before._rewritten

    def forget(self) -> None:
        """Let go of what nobody asked for since this was called last."""
        self._snapshots.clear()
        self._clusters.clear()
        self._rewritten.forget()

    def levels(self, proxy: Proxy) -> Levels:
        """The Telemetry resources for a proxy, the widest first."""
        if not self._config.telemetries:
            return ()
        key = (proxy.namespace, as_labels(proxy.labels))
        found = self._levels_of.get(key)
        if found is None:
            found = self._levels_of[key] = self._index.of(proxy)
        return found

    def apply(self, plain: Snapshot, proxy: Proxy) -> Snapshot:
        """The proxy's snapshot, with what is added to it."""
        added = self._additions(proxy)
        if added == _NOTHING:
            return plain
        found = self._snapshots.get((plain, added))
        if found is None:
            found = self._snapshots[plain, added] = plain.with_own(
                self._with_clusters(plain.clusters, added.clusters),
                self._rewritten(plain.listeners, added.to_listeners),
            )
        return found

    def _additions(self, proxy: Proxy) -> _Added:
        levels = self.levels(proxy)
        tracee = self._tracee(proxy)
        key = (tracee, tuple(map(str, levels)))
        found = self._of_levels.get(key)
        if found is None:
            traced = traces(levels, self._settings, self._names, tracee)
            to_listeners = Additions(
                self._logs(levels),
                metrics(levels, self._settings),
                traced.client,
                traced.server,
            )
            found = self._of_levels[key] = _Added(to_listeners, traced.clusters)
        return found

    def _tracee(self, proxy: Proxy) -> Tracee:
        # Who has no certificate could not show whose the spans are.
        has_own = proxy.has_certificate and self._settings.spans_port
        return Tracee(
            is_gateway=proxy.kind is WorkloadKind.GATEWAY,
            control_plane=_control_plane_of(proxy) if has_own else "",
        )

    def _with_clusters(
        self, plain: ResourceSet, clusters: tuple[Resource, ...]
    ) -> ResourceSet:
        if not clusters:
            return plain
        found = self._clusters.get((plain, clusters))
        if found is None:
            found = self._clusters[plain, clusters] = ResourceSet(clusters, base=plain)
        return found

    def _logs(self, levels: Levels) -> AccessLogs:
        settings = self._settings
        is_asked = settings.access_log_file or settings.access_log_providers
        if not is_asked and not levels:
            return NO_LOGS
        return access_logs(levels, settings, self._names)


def _side(plain: Resource, added: Additions) -> _OfSide | None:
    """What of it is for this listener."""
    if plain.name in NOT_OF_APPS:
        return None
    measured = added.metrics
    if plain.name == VIRTUAL_INBOUND:
        side = _OfSide(
            added.logs.server,
            measured.server_mtls,
            measured.server_plain,
            added.server_traces,
            True,
        )
    else:
        side = _OfSide(
            added.logs.client, NO_METERS, measured.client, added.client_traces, False
        )
    return side or None


def _control_plane_of(proxy: Proxy) -> str:
    """The host at which the proxy has its control plane, as its bootstrap says."""
    told = proxy.metadata.get(NODE_CONTROL_PLANE)
    is_host = isinstance(told, str) and _HOST.fullmatch(told)
    return str(told) if is_host else CONTROL_PLANE_HOST


def _with_additions(plain: Resource, side: _OfSide) -> Resource:
    listener = listener_pb2.Listener()
    any_pb2.Any.FromString(plain.any_bytes).Unpack(listener)
    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)

    for chain in chains:
        is_from_proxy = side.is_server and is_mutual(chain)
        meters = side.mutual if is_from_proxy else side.plain
        for part in chain.filters:
            _add_loggers(part, side.loggers, meters)
            if is_from_proxy and meters and part.typed_config.TypeName() == _TCP:
                part.typed_config.value += _CONNECT_WHEN_KNOWN
            if part.typed_config.TypeName() == _HTTP:
                # Fields that no manager of ours has yet.
                part.typed_config.value += side.traces
        if is_from_proxy and meters:
            chain.filters.insert(0, peer_filter())

    for logger in side.loggers.of_listeners:
        listener.access_log.add().MergeFromString(logger)

    return make_resource(LISTENER, plain.name, serialised(listener))


def _add_loggers(part: Any, loggers: Loggers, meters: Meters) -> None:
    # Fields of one number that follow each other are a repeated field, so what is packed need not
    # be unpacked.
    packed = part.typed_config
    if packed.TypeName() == _HTTP:
        added = (*loggers.of_requests, *meters.of_requests)
        packed.value += b"".join(frame(_LOGGERS_OF_HTTP, logger) for logger in added)
    elif packed.TypeName() == _TCP:
        added = (*loggers.of_connections, *meters.of_connections)
        packed.value += b"".join(frame(_LOGGERS_OF_TCP, logger) for logger in added)
        if meters.of_connections:
            packed.value += _TELL_WHEN_CONNECTED
