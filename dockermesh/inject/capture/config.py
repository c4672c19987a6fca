"""The capture configuration: istio-iptables' settings with its defaults, as checked values.

Invariant: a `CaptureConfig` can always be rendered; every string in it is safe to stand in an
`iptables-restore` line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from dockermesh.model.contract import DNS_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY_UID

LOOPBACK_V4 = IPv4Network("127.0.0.1/32")


class Mode(StrEnum):
    """How inbound connections reach the proxy."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port, or those listed; a port is `80` or a range `8000:8080`."""

    every: bool = False
    listed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.every or bool(self.listed)


@dataclass(frozen=True, slots=True)
class Cidrs:
    """Every address, or the networks listed.

    `loopback` is kept apart from the networks: it tells whether an address was *written* as a
    loopback one.
    """

    every: bool = False
    v4: tuple[IPv4Network, ...] = ()
    v6: tuple[IPv6Network, ...] = ()
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class OwnerGroups:
    """Whose outbound traffic is captured: everybody's except that of `groups`, or only that of
    `groups`.
    """

    only: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """istio-iptables' configuration. With the defaults nothing is captured: what to capture is
    always said.
    """

    proxy_port: int = OUTBOUND_PORT
    inbound_capture_port: int = INBOUND_PORT
    inbound_tunnel_port: int = 15008
    dns_port: int = DNS_PORT
    proxy_uids: tuple[str, ...] = (str(PROXY_UID),)
    proxy_gids: tuple[str, ...] = (str(PROXY_UID),)
    mode: Mode = Mode.REDIRECT
    tproxy_mark: int = 1337
    tproxy_route_table: int = 133
    inbound_include: Ports = Ports()
    inbound_exclude: Ports = Ports()
    outbound_include: Ports = Ports()
    outbound_exclude: Ports = Ports()
    ranges_include: Cidrs = field(default_factory=Cidrs)
    ranges_exclude: Cidrs = field(default_factory=Cidrs)
    owner_groups: OwnerGroups = OwnerGroups()
    reroute_interfaces: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    redirect_dns: bool = False
    capture_all_dns: bool = False
    dns_servers_v4: tuple[IPv4Address, ...] = ()
    dns_servers_v6: tuple[IPv6Address, ...] = ()
    drop_invalid: bool = False
    ipv6: bool = False
    loopback_v4: IPv4Network = LOOPBACK_V4

    @property
    def dns(self) -> bool:
        """Whether DNS is captured; without servers to capture the setting means nothing, as in
        Istio.
        """
        return self.redirect_dns and (
            self.capture_all_dns or bool(self.dns_servers_v4 or self.dns_servers_v6)
        )
