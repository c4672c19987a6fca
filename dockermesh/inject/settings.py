"""Settings of the user: `x-dockermesh`, the labels Istio users know, and registrator's `SERVICE_*`
conventions.

Invariant: a wrong key or value is refused with its place; `x-dockermesh` beats labels, labels beat
environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from dockermesh.errors import InputError
from dockermesh.inject.proxy_config import (
    LABEL,
    GatewayConfig,
    ProxyStart,
    gateway_config,
    proxy_start,
)
from dockermesh.inject.rewrites import NOTHING
from dockermesh.inject.string_map import string_map
from dockermesh.model.contract import (
    LABEL_ACCOUNT,
    LABEL_INJECT,
    LABEL_MODE,
    LABEL_NAMESPACE,
    LABEL_RAW_SOCKETS,
)
from dockermesh.model.identity import is_identity_part
from dockermesh.model.workload import TLS_MODE_LABEL, TRAFFIC_LABELS, ProxyMode
from dockermesh.model.workload_labels import conventions as said_by
from dockermesh.model.workload_labels import mesh_name as called
from dockermesh.model.workload_labels import workload_labels as labels_of

EXTENSION = "x-dockermesh"
_RAW_KEY = "rawSockets"
_TOP_KEYS = (
    "inject",
    "mode",
    "network",
    "namespace",
    "gateway",
    "egressGateway",
    _RAW_KEY,
)
_GATEWAY_KEYS = ("ports", LABEL)
_SERVICE_KEYS = ("inject", "namespace", "serviceAccount", "labels", _RAW_KEY)
_CAPTURE_KEYS = {
    "includeInboundPorts": "include_inbound_ports",
    "excludeInboundPorts": "exclude_inbound_ports",
    "includeOutboundPorts": "include_outbound_ports",
    "excludeOutboundPorts": "exclude_outbound_ports",
    "includeOutboundIPRanges": "include_outbound_ip_ranges",
    "excludeOutboundIPRanges": "exclude_outbound_ip_ranges",
    "excludeInterfaces": "exclude_interfaces",
}
"""Key in `x-dockermesh` and suffix of the label, to the argument of `pod_capture_config`."""
_MODE_KEY = "interceptionMode"
_PLAIN_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """`x-dockermesh` at the top level."""

    inject: bool = True
    network: str = ""
    namespace: str = "default"
    gateway_ports: tuple[str, ...] = ()
    egress_gateway: bool = False
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    raw_sockets: bool = True
    mode: ProxyMode | None = None


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What was said about one service.

    `capture` has the arguments of `pod_capture_config`, empty for the defaults; `intercept` is
    false for no rules; without `raw_sockets` the app loses the capability that Docker gives it.
    """

    inject: bool = True
    namespace: str = "default"
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    capture: Mapping[str, str] = field(default_factory=dict)
    intercept: bool = True
    raw_sockets: bool = True
    proxy: ProxyStart = field(default_factory=ProxyStart)


def project_settings(project: Mapping[str, Any]) -> ProjectSettings:
    """The settings of the project."""
    raw = _section(project.get(EXTENSION), EXTENSION, _TOP_KEYS)
    gateway = _section(raw.get("gateway"), f"{EXTENSION}.gateway", _GATEWAY_KEYS)
    ports = gateway.get("ports")

    if ports is not None and not isinstance(ports, list):
        raise InputError(
            "must be a list of A:B",
            where=f"{EXTENSION}.gateway.ports",
            fix='write ports: ["9081:30080"]',
        )

    return ProjectSettings(
        inject=_boolean(raw.get("inject", True), f"{EXTENSION}.inject"),
        network=str(raw.get("network") or ""),
        namespace=_name(raw.get("namespace", "default"), f"{EXTENSION}.namespace"),
        gateway_ports=_table(ports),
        gateway=gateway_config(gateway.get(LABEL, ""), f"{EXTENSION}.gateway.{LABEL}"),
        egress_gateway=_boolean(
            raw.get("egressGateway", False), f"{EXTENSION}.egressGateway"
        ),
        raw_sockets=_boolean(raw.get(_RAW_KEY, True), f"{EXTENSION}.{_RAW_KEY}"),
        mode=_mode(raw["mode"], f"{EXTENSION}.mode") if "mode" in raw else None,
    )


def _table(ports: list[Any] | None) -> tuple[str, ...]:
    """Rewrites of ports; an empty list is meant to have none, where nothing said is the default."""
    if ports is None:
        return ()
    return tuple(map(str, ports)) or (NOTHING,)


def service_settings(
    name: str, service: Mapping[str, Any], project: ProjectSettings
) -> ServiceSettings:
    """The settings of the service `name`."""
    place = f"services.{name}.{EXTENSION}"
    raw = _section(
        service.get(EXTENSION), place, (*_SERVICE_KEYS, _MODE_KEY, *_CAPTURE_KEYS)
    )
    labels = string_map(service.get("labels"))
    inject = raw.get(
        "inject",
        labels.get(LABEL_INJECT, labels.get("sidecar.istio.io/inject", project.inject)),
    )
    namespace = raw.get("namespace", labels.get(LABEL_NAMESPACE, project.namespace))
    told = conventions(service).get("SERVICE_ACCOUNT") or mesh_name(name, service)
    account = raw.get("serviceAccount", labels.get(LABEL_ACCOUNT, told))
    sockets = raw.get(_RAW_KEY, labels.get(LABEL_RAW_SOCKETS, project.raw_sockets))
    own = raw.get("labels") or {}
    if not isinstance(own, Mapping):
        raise InputError("must be a mapping", where=f"{place}.labels")

    # Its host's proxy serves it: it has no sidecar.
    if _is_of_node(name, labels):
        inject = False
    capture = _capture(raw, labels)
    intercept = _intercepts(
        raw.get(_MODE_KEY, labels.get("sidecar.istio.io/interceptionMode")),
        f"services.{name}",
    )
    return ServiceSettings(
        inject=_boolean(inject, f"services.{name}: inject"),
        namespace=_name(namespace, f"services.{name}: namespace"),
        service_account=_account(str(account), f"services.{name}: service account"),
        labels=workload_labels(name, service)
        | {str(k): str(v) for k, v in own.items()}
        | _taken_in(capture, intercept=intercept),
        capture=capture,
        intercept=intercept,
        raw_sockets=_boolean(sockets, f"services.{name}: {_RAW_KEY}"),
        proxy=proxy_start(labels, f"services.{name}"),
    )


def in_node_mode(services: Mapping[str, Any]) -> frozenset[str]:
    """The services of a project whose label says that their host's proxy serves them."""
    return frozenset(
        name
        for name, service in services.items()
        if _is_of_node(name, string_map(service.get("labels")))
    )


def _is_of_node(name: str, labels: Mapping[str, str]) -> bool:
    said = labels.get(LABEL_MODE)
    if said is None:
        return False
    return _mode(said, f"services.{name}: label {LABEL_MODE}") is ProxyMode.NODE


def _mode(text: Any, place: str) -> ProxyMode:
    known = [mode.value for mode in ProxyMode]
    if text not in known:
        raise InputError(
            f"unknown mode {text!r}", where=place, fix=f"write {' or '.join(known)}"
        )
    return ProxyMode(text)


def _taken_in(capture: Mapping[str, str], *, intercept: bool) -> dict[str, str]:
    """Labels that tell the control plane which ports its proxy does not see: clients call these in
    plaintext.
    """
    if not intercept:
        return {TLS_MODE_LABEL: "disabled"}
    inbound = (
        (key, capture.get(_CAPTURE_KEYS[key]))
        for key in ("includeInboundPorts", "excludeInboundPorts")
    )
    return {
        f"{TRAFFIC_LABELS}{key}": value for key, value in inbound if value is not None
    }


def conventions(service: Mapping[str, Any]) -> dict[str, str]:
    """The service's `SERVICE_*` metadata."""
    return said_by(
        string_map(service.get("environment")), string_map(service.get("labels"))
    )


def mesh_name(name: str, service: Mapping[str, Any]) -> str:
    """What the mesh calls the service."""
    return called(name, conventions(service), is_single=_is_single(service))


def _is_single(service: Mapping[str, Any]) -> bool:
    """Whether the file tells of one port at most."""
    exposed = {str(port).partition("/")[0] for port in service.get("expose") or ()}
    exposed |= {
        str(port["target"])
        for port in service.get("ports") or ()
        if isinstance(port, Mapping)
    }
    return len(exposed) <= 1


def workload_labels(name: str, service: Mapping[str, Any]) -> dict[str, str]:
    """What subsets and selectors match, of a service called `name` in the Compose file."""
    return labels_of(
        mesh_name(name, service),
        string_map(service.get("labels")),
        conventions(service),
    )


def _section(raw: Any, place: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InputError(
            "must be a mapping", where=place, fix=f"known keys: {', '.join(known)}"
        )

    for key in raw:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"unknown key {key!r}",
                where=place,
                fix=f"{hint}known keys: {', '.join(known)}",
            )

    return raw


def _boolean(value: Any, place: str) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1", "enabled"):
        return True
    if text in ("false", "no", "off", "0", "disabled"):
        return False
    raise InputError(
        f"{value!r} is neither true nor false",
        where=place,
        fix='write "true" or "false"',
    )


def _name(value: Any, place: str) -> str:
    text = str(value)
    if len(text) > 63 or not _PLAIN_NAME.match(text):
        raise InputError(
            f"{text!r} is not a name",
            where=place,
            fix="use lower-case letters, digits and '-'",
        )
    return text


def _account(text: str, place: str) -> str:
    if not is_identity_part(text):
        raise InputError(
            f"{text!r} cannot be part of a SPIFFE identity",
            where=place,
            fix=(
                "set dockermesh.io/service-account (or SERVICE_ACCOUNT) to letters, digits, '.',"
                " '_', '-'"
            ),
        )
    return text


def _capture(raw: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for key, argument in _CAPTURE_KEYS.items():
        value = raw.get(key, labels.get(TRAFFIC_LABELS + key))
        if value is not None:
            settings[argument] = (
                ",".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return settings


def _intercepts(mode: Any, place: str) -> bool:
    text = str(mode or "REDIRECT").upper()
    if text == "TPROXY":
        raise InputError(
            "interception mode TPROXY needs a proxy with NET_ADMIN, and proxies of the mesh have no"
            " capability",
            where=place,
            fix="use REDIRECT; the client's address is in x-forwarded-for",
        )

    if text not in ("REDIRECT", "NONE"):
        raise InputError(
            f"unknown interception mode {mode!r}",
            where=place,
            fix="write REDIRECT or NONE",
        )

    return text == "REDIRECT"
