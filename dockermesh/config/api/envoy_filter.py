"""EnvoyFilter: patches of what the proxies are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from dockermesh.config.api.common import PolicyTargetReference, WorkloadSelector
from dockermesh.config.fields import Int32, Length, UInt32


class ApplyTo(StrEnum):
    """The kind of object that is patched."""

    # protobuf's zero value: what is not given.
    INVALID = "INVALID"
    LISTENER = "LISTENER"
    FILTER_CHAIN = "FILTER_CHAIN"
    NETWORK_FILTER = "NETWORK_FILTER"
    HTTP_FILTER = "HTTP_FILTER"
    ROUTE_CONFIGURATION = "ROUTE_CONFIGURATION"
    VIRTUAL_HOST = "VIRTUAL_HOST"
    HTTP_ROUTE = "HTTP_ROUTE"
    CLUSTER = "CLUSTER"
    EXTENSION_CONFIG = "EXTENSION_CONFIG"
    BOOTSTRAP = "BOOTSTRAP"
    LISTENER_FILTER = "LISTENER_FILTER"


class PatchContext(StrEnum):
    """The kind of traffic whose objects are patched."""

    ANY = "ANY"
    SIDECAR_INBOUND = "SIDECAR_INBOUND"
    SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
    GATEWAY = "GATEWAY"
    # Known, so that files for both modes of Istio can be read; there are no waypoints.
    WAYPOINT = "WAYPOINT"


class PatchOperation(StrEnum):
    """What is done to the object."""

    INVALID = "INVALID"
    MERGE = "MERGE"
    ADD = "ADD"
    REMOVE = "REMOVE"
    INSERT_BEFORE = "INSERT_BEFORE"
    INSERT_AFTER = "INSERT_AFTER"
    INSERT_FIRST = "INSERT_FIRST"
    REPLACE = "REPLACE"
    MERGE_AND_REPLACE_LIST = "MERGE_AND_REPLACE_LIST"


class FilterClass(StrEnum):
    """Where among Istio's filters an added one goes."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class RouteAction(StrEnum):
    """What a matched route does."""

    ANY = "ANY"
    ROUTE = "ROUTE"
    REDIRECT = "REDIRECT"
    DIRECT_RESPONSE = "DIRECT_RESPONSE"


@dataclass(frozen=True, slots=True)
class ProxyMatch:
    """Conditions on the proxy."""

    # A regular expression, compared with the version of Istio that a proxy says.
    proxy_version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterMatch:
    """Conditions on a cluster."""

    port_number: UInt32 = 0
    service: str = ""
    subset: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """Conditions on a route."""

    name: str = ""
    action: RouteAction = RouteAction.ANY


@dataclass(frozen=True, slots=True)
class VirtualHostMatch:
    """Conditions on a virtual host."""

    name: str = ""
    domain_name: str = ""
    route: RouteMatch | None = None


@dataclass(frozen=True, slots=True)
class RouteConfigurationMatch:
    """Conditions on a route configuration."""

    port_number: UInt32 = 0
    port_name: str = ""
    gateway: str = ""
    vhost: VirtualHostMatch | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class SubFilterMatch:
    """Conditions on a filter within a filter."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class FilterMatch:
    """Conditions on a filter."""

    name: str = ""
    sub_filter: SubFilterMatch | None = None


@dataclass(frozen=True, slots=True)
class FilterChainMatch:
    """Conditions on a filter chain."""

    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: str = ""
    filter: FilterMatch | None = None
    destination_port: UInt32 = 0


@dataclass(frozen=True, slots=True)
class ListenerMatch:
    """Conditions on a listener."""

    port_number: UInt32 = 0
    port_name: str = ""
    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class WaypointRouteMatch:
    """Conditions on a route of a waypoint."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class WaypointMatch:
    """Conditions on a waypoint's objects."""

    port_number: UInt32 = 0
    filter: FilterMatch | None = None
    route: WaypointRouteMatch | None = None


@dataclass(frozen=True, slots=True)
class ConfigObjectMatch:
    """Conditions on the proxy and on the object."""

    ONEOFS: ClassVar = (("listener", "route_configuration", "cluster", "waypoint"),)
    context: PatchContext = PatchContext.ANY
    proxy: ProxyMatch | None = None
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None
    waypoint: WaypointMatch | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """The operation and, for most operations, the value in Envoy's JSON."""

    operation: PatchOperation = PatchOperation.INVALID
    value: Mapping[str, Any] | None = None
    filter_class: FilterClass = FilterClass.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class ConfigPatch:
    """One patch."""

    apply_to: ApplyTo = ApplyTo.INVALID
    match: ConfigObjectMatch | None = None
    patch: Patch | None = None


@dataclass(frozen=True, slots=True)
class EnvoyFilter:
    """Patches for the proxies of the selected workloads, lower `priority` first."""

    workload_selector: WorkloadSelector | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    config_patches: tuple[ConfigPatch, ...] = ()
    priority: Int32 = 0
