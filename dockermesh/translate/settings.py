"""Mesh-wide settings and the edge's configuration, as translation sees them."""

from __future__ import annotations

from dataclasses import dataclass

from dockermesh.config.api.gateway import Gateway
from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.resource import Resource


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """What applies to every proxy.

    `hold_attempts`: how often a request that no app has seen yet is tried again, with back-off from 50 ms to 1 s;
    20 attempts hold it for about 10 s, longer than an app or a pod takes to restart. 0 fails it at once.
    `allow_any`: pass connections to unknown destinations through (Istio: outboundTrafficPolicy.mode ALLOW_ANY);
    otherwise they are refused (REGISTRY_ONLY).
    """

    trust_domain: str = "cluster.local"
    hold_attempts: int = 20
    allow_any: bool = True


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Gateways, and the VirtualServices that may be bound to them, oldest first."""

    gateways: tuple[Resource[Gateway], ...] = ()
    virtual_services: tuple[Resource[VirtualService], ...] = ()
