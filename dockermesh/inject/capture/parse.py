"""Reads istio-iptables' configuration from JSON.

Invariant: what is not understood is refused by name; nothing is guessed, so a misspelt exclusion
never goes unnoticed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_interface
from typing import Any, TypeVar

from dockermesh.errors import InputError
from dockermesh.inject.capture.config import (
    CaptureConfig,
    Cidrs,
    Mode,
    OwnerGroups,
    Ports,
)

A = TypeVar("A", IPv4Address, IPv6Address)
MAX_PORT = 65535
MAX_GROUPS = 64  # istio-iptables' own bound
OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
INTERFACE = re.compile(r"[A-Za-z0-9_.@:-]{1,15}\+?")

# Istio renamed some settings, and prints them under the names of their environment variables.
ALIASES = {
    "KubeVirtInterfaces": "RerouteVirtualInterfaces",
    "EnableInboundIPv6": "EnableIPv6",
    "OwnerGroups": "OwnerGroupsInclude",
    "CNIMode": "HostFilesystemPodNetwork",
    "PROXY_PORT": "ProxyPort",
    "INBOUND_CAPTURE_PORT": "InboundCapturePort",
    "INBOUND_TUNNEL_PORT": "InboundTunnelPort",
    "PROXY_UID": "ProxyUID",
    "PROXY_GID": "ProxyGID",
    "INBOUND_INTERCEPTION_MODE": "InboundInterceptionMode",
    "INBOUND_TPROXY_MARK": "InboundTProxyMark",
    "INBOUND_TPROXY_ROUTE_TABLE": "InboundTProxyRouteTable",
    "INBOUND_PORTS_INCLUDE": "InboundPortsInclude",
    "INBOUND_PORTS_EXCLUDE": "InboundPortsExclude",
    "OUTBOUND_OWNER_GROUPS_INCLUDE": "OwnerGroupsInclude",
    "OUTBOUND_OWNER_GROUPS_EXCLUDE": "OwnerGroupsExclude",
    "OUTBOUND_PORTS_INCLUDE": "OutboundPortsInclude",
    "OUTBOUND_PORTS_EXCLUDE": "OutboundPortsExclude",
    "OUTBOUND_IPRANGES_INCLUDE": "OutboundIPRangesInclude",
    "OUTBOUND_IPRANGES_EXCLUDE": "OutboundIPRangesExclude",
    "KUBE_VIRT_INTERFACES": "RerouteVirtualInterfaces",
    "EXCLUDE_INTERFACES": "ExcludeInterfaces",
    "REDIRECT_DNS": "RedirectDNS",
    "DROP_INVALID": "DropInvalid",
    "CAPTURE_ALL_DNS": "CaptureAllDNS",
    "ENABLE_INBOUND_IPV6": "EnableIPv6",
    "DNS_SERVERS_V4": "DNSServersV4",
    "DNS_SERVERS_V6": "DNSServersV6",
    "HOST_IPV4_LOOPBACK_CIDR": "HostIPv4LoopbackCidr",
    "IPTABLES_PROBE_PORT": "IptablesProbePort",
    "PROBE_TIMEOUT": "ProbeTimeout",
    "DRY_RUN": "DryRun",
    "SKIP_RULE_APPLY": "SkipRuleApply",
    "RUN_VALIDATION": "RunValidation",
    "NETWORK_NAMESPACE": "NetworkNamespace",
    "CNI_MODE": "HostFilesystemPodNetwork",
    "IPTABLES_TRACE_LOGGING": "TraceLogging",
    "DUAL_STACK": "DualStack",
    "HOST_IP": "HostIP",
    "RECONCILE": "Reconcile",
    "CLEANUP_ONLY": "CleanupOnly",
    "FORCE_APPLY": "ForceApply",
    "OUTPUT_PATH": "OutputPath",
    "RESTORE_FORMAT": "RestoreFormat",
    "HOST_NSENTER_EXEC": "HostNSEnterExec",
}


def _refuse(key: str, what: str, fix: str) -> InputError:
    return InputError(f"{key}: {what}", fix=fix)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(
            key,
            f"expected true or false, got {json.dumps(value)}",
            "write it without quotes",
        )
    return value


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refuse(
            key,
            f"expected a string, got {json.dumps(value)}",
            "put the value in quotes",
        )
    return value.strip()


def _items(key: str, value: object) -> tuple[str, ...]:
    """A comma-separated string, as Istio has it, or a JSON list; empty items are dropped, as Istio
    drops them.
    """
    if isinstance(value, str):
        parts = value.split(",")
    elif isinstance(value, list) and all(
        isinstance(v, str | int) and not isinstance(v, bool) for v in value
    ):
        parts = [str(v) for v in value]
    else:
        raise _refuse(
            key,
            f"expected a comma-separated string, got {json.dumps(value)}",
            'for example "80,443"',
        )

    return tuple(part.strip() for part in parts if part.strip())


def _whole(key: str, value: object, low: int, high: int) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or not re.fullmatch(r"[0-9]+", str(value).strip())
    ):
        raise _refuse(
            key,
            f"expected a number, got {json.dumps(value)}",
            f"give one from {low} to {high}",
        )

    number = int(value)
    if not low <= number <= high:
        raise _refuse(
            key, f"{number} is out of range", f"give one from {low} to {high}"
        )
    return number


def _port(key: str, value: object) -> int:
    return _whole(key, value, 1, MAX_PORT)


def _port_or_range(key: str, item: str) -> str:
    low, colon, high = item.replace("-", ":").partition(":")
    first = _port(key, low)
    if not colon:
        return str(first)
    last = _port(key, high)
    if last < first:
        raise _refuse(key, f"the range {item} is empty", "write the lower port first")
    return f"{first}:{last}"


def _listed_ports(key: str, value: object) -> Ports:
    items = _items(key, value)
    if "*" in items:
        raise _refuse(
            key, '"*" is not allowed here', "list the ports, separated by commas"
        )
    return Ports(listed=tuple(_port_or_range(key, item) for item in items))


def _ports(key: str, value: object) -> Ports:
    return (
        Ports(every=True) if _items(key, value) == ("*",) else _listed_ports(key, value)
    )


def _listed_cidrs(key: str, value: object) -> Cidrs:
    v4, v6, loopback = [], [], False
    for item in _items(key, value):
        try:
            parsed = ip_interface(item if "/" in item else "no prefix")
        except ValueError:
            raise _refuse(
                key,
                f"{item!r} is not an IP range",
                'write it as address/bits, like "10.0.0.0/8"',
            ) from None

        loopback = loopback or parsed.ip.is_loopback
        if isinstance(parsed.network, IPv4Network):
            v4.append(parsed.network)
        else:
            v6.append(parsed.network)

    return Cidrs(v4=tuple(v4), v6=tuple(v6), loopback=loopback)


def _cidrs(key: str, value: object) -> Cidrs:
    return (
        Cidrs(every=True) if _items(key, value) == ("*",) else _listed_cidrs(key, value)
    )


def _matching(
    pattern: re.Pattern[str], kind: str
) -> Callable[[str, object], tuple[str, ...]]:
    def read(key: str, value: object) -> tuple[str, ...]:
        items = _items(
            key,
            value
            if not isinstance(value, int) or isinstance(value, bool)
            else str(value),
        )
        for item in items:
            if not pattern.fullmatch(item):
                raise _refuse(
                    key,
                    f"{item!r} is not {kind}",
                    "give names or numbers, separated by commas",
                )
        return items

    return read


def _addresses_v4(key: str, value: object) -> tuple[IPv4Address, ...]:
    return tuple(_address(key, item, IPv4Address) for item in _items(key, value))


def _addresses_v6(key: str, value: object) -> tuple[IPv6Address, ...]:
    return tuple(_address(key, item, IPv6Address) for item in _items(key, value))


def _address(key: str, item: str, kind: type[A]) -> A:
    try:
        return kind(item)
    except ValueError:
        raise _refuse(
            key,
            f"{item!r} is not an IP address of this version",
            "list plain IP addresses",
        ) from None


def _mode(key: str, value: object) -> Mode:
    text = _text(key, value)
    try:
        return Mode(text or "REDIRECT")
    except ValueError:
        raise _refuse(
            key, f"unknown mode {text!r}", "use REDIRECT, TPROXY or NONE"
        ) from None


def _loopback(key: str, value: object) -> IPv4Network:
    networks = _listed_cidrs(key, value).v4
    if len(networks) != 1 or not networks[0].is_loopback:
        raise _refuse(
            key,
            f"{value!r} is not an IPv4 loopback range",
            'for example "127.0.0.1/32"',
        )
    return networks[0]


def _positive(key: str, value: object) -> int:
    return _whole(key, value, 1, 2**32 - 1)


_OWNERS = _matching(OWNER, "a user or group")
_INTERFACES = _matching(INTERFACE, "an interface name")
_FIELDS: dict[str, tuple[str, Callable[[str, Any], object]]] = {
    "ProxyPort": ("proxy_port", _port),
    "InboundCapturePort": ("inbound_capture_port", _port),
    "InboundTunnelPort": ("inbound_tunnel_port", _port),
    "ProxyUID": ("proxy_uids", _OWNERS),
    "ProxyGID": ("proxy_gids", _OWNERS),
    "InboundInterceptionMode": ("mode", _mode),
    "InboundTProxyMark": ("tproxy_mark", _positive),
    "InboundTProxyRouteTable": ("tproxy_route_table", _positive),
    "InboundPortsInclude": ("inbound_include", _ports),
    "InboundPortsExclude": ("inbound_exclude", _listed_ports),
    "OutboundPortsInclude": ("outbound_include", _listed_ports),
    "OutboundPortsExclude": ("outbound_exclude", _listed_ports),
    "OutboundIPRangesInclude": ("ranges_include", _cidrs),
    "OutboundIPRangesExclude": ("ranges_exclude", _listed_cidrs),
    "RerouteVirtualInterfaces": ("reroute_interfaces", _INTERFACES),
    "ExcludeInterfaces": ("exclude_interfaces", _INTERFACES),
    "RedirectDNS": ("redirect_dns", _flag),
    "CaptureAllDNS": ("capture_all_dns", _flag),
    "DNSServersV4": ("dns_servers_v4", _addresses_v4),
    "DNSServersV6": ("dns_servers_v6", _addresses_v6),
    "DropInvalid": ("drop_invalid", _flag),
    "EnableIPv6": ("ipv6", _flag),
    "HostIPv4LoopbackCidr": ("loopback_v4", _loopback),
}
# They steer how istio-iptables runs, not what it captures: checked for their type and otherwise
# without effect.
_WITHOUT_EFFECT: dict[str, Callable[[str, Any], object]] = {
    "IptablesProbePort": lambda key, value: _whole(key, value, 0, MAX_PORT),
    "ProbeTimeout": lambda key, value: (
        value if isinstance(value, str) else _whole(key, value, 0, 2**63 - 1)
    ),
    "NetworkNamespace": _text,
    "HostIP": _text,
    "OutputPath": _text,
    **dict.fromkeys(
        (
            "DryRun",
            "SkipRuleApply",
            "RunValidation",
            "HostFilesystemPodNetwork",
            "HostNSEnterExec",
            "RestoreFormat",
            "TraceLogging",
            "DualStack",
            "Reconcile",
            "CleanupOnly",
            "ForceApply",
        ),
        _flag,
    ),
}
_GROUP_KEYS = ("OwnerGroupsInclude", "OwnerGroupsExclude")


def _owner_groups(values: Mapping[str, object]) -> OwnerGroups:
    include = values.get("OwnerGroupsInclude", "*")
    exclude = _OWNERS("OwnerGroupsExclude", values.get("OwnerGroupsExclude", ""))

    if _items("OwnerGroupsInclude", include) == ("*",):
        chosen = OwnerGroups(groups=exclude)
    elif exclude:
        raise _refuse(
            "OwnerGroupsExclude",
            "cannot be combined with OwnerGroupsInclude",
            "use one of the two",
        )
    else:
        chosen = OwnerGroups(only=True, groups=_OWNERS("OwnerGroupsInclude", include))

    if len(chosen.groups) > MAX_GROUPS:
        raise _refuse(
            "OwnerGroupsInclude", f"more than {MAX_GROUPS} groups", "list fewer"
        )
    return chosen


def _canonical(data: Mapping[str, object]) -> dict[str, object]:
    known = [*_FIELDS, *_WITHOUT_EFFECT, *_GROUP_KEYS]
    values: dict[str, object] = {}

    for key, value in data.items():
        name = ALIASES.get(key, key)
        if name not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"unknown setting {key!r}",
                fix=f"did you mean {near[0]}?"
                if near
                else f"known are: {', '.join(sorted(known))}",
            )

        if name in values:
            raise _refuse(key, f"{name} is set twice, under two names", "keep one")
        if value is not None:
            values[name] = value

    return values


def capture_config(data: Mapping[str, object]) -> CaptureConfig:
    """The configuration that `data`, a decoded JSON object, describes."""
    values = _canonical(data)
    fields: dict[str, Any] = {"owner_groups": _owner_groups(values)}

    for name, value in values.items():
        if name in _FIELDS:
            attribute, read = _FIELDS[name]
            fields[attribute] = read(name, value)
        elif name in _WITHOUT_EFFECT:
            _WITHOUT_EFFECT[name](name, value)

    # An empty ProxyUID means "the default", and an empty ProxyGID "the same as ProxyUID".
    fields["proxy_uids"] = fields.get("proxy_uids") or CaptureConfig().proxy_uids
    fields["proxy_gids"] = fields.get("proxy_gids") or fields["proxy_uids"]
    return CaptureConfig(**fields)


def parse_capture_config(text: str, *, where: str = "") -> CaptureConfig:
    """The configuration in the JSON `text`; `where` names its source in errors."""
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"not valid JSON: {error}",
            where=where,
            fix="see `dockermesh capture render --help`",
        ) from None

    if not isinstance(data, dict):
        raise InputError(
            "expected a JSON object of settings",
            where=where,
            fix='for example {"InboundPortsInclude": "*"}',
        )

    try:
        return capture_config(data)
    except InputError as error:
        raise InputError(error.what, where=where, fix=error.fix) from None
