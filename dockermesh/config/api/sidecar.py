"""Sidecar: what a workload's proxy listens on and what it may see of the mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dockermesh.config.api.common import WorkloadSelector
from dockermesh.config.api.destination_rule import ConnectionPoolSettings
from dockermesh.config.api.gateway import ServerTlsSettings
from dockermesh.config.api.virtual_service import Destination
from dockermesh.config.fields import REQUIRED, UInt32

EXCLUDED = "~"
"""Before the namespace of a host that a listener does not serve: `~prod/*`, and `~/a.example` for
every namespace.
"""


class CaptureMode(StrEnum):
    """How traffic reaches a listener."""

    DEFAULT = "DEFAULT"
    IPTABLES = "IPTABLES"
    NONE = "NONE"


class OutboundTrafficPolicyMode(StrEnum):
    """What happens to traffic to unknown destinations."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"


@dataclass(frozen=True, slots=True)
class SidecarPort:
    """The port of a listener."""

    number: UInt32 = 0
    protocol: str = ""
    name: str = ""
    target_port: UInt32 = 0


@dataclass(frozen=True, slots=True)
class IstioIngressListener:
    """A listener for traffic to the workload."""

    port: SidecarPort | None = field(default=None, metadata=REQUIRED)
    bind: str = ""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    default_endpoint: str = ""
    tls: ServerTlsSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None


@dataclass(frozen=True, slots=True)
class IstioEgressListener:
    """A listener for traffic from the workload, and the hosts (`namespace/host`) it serves."""

    # Without a port it serves what no other listener does.
    port: SidecarPort | None = None
    bind: str = ""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    hosts: tuple[str, ...] = field(default=(), metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class OutboundTrafficPolicy:
    """What happens to traffic to unknown destinations."""

    # That of a policy which says none. Without a policy, MeshConfig decides.
    mode: OutboundTrafficPolicyMode = OutboundTrafficPolicyMode.REGISTRY_ONLY
    egress_proxy: Destination | None = None


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Settings of the proxies that `workload_selector` finds (None: all of the namespace)."""

    workload_selector: WorkloadSelector | None = None
    ingress: tuple[IstioIngressListener, ...] = ()
    egress: tuple[IstioEgressListener, ...] = ()
    inbound_connection_pool: ConnectionPoolSettings | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
