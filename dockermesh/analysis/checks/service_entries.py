"""ServiceEntries and the names of ports.

Source of the rules: `pkg/config/analysis/analyzers/{serviceentry,service}` of Istio.
"""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    ADDRESSES_REQUIRED,
    EXTERNAL_NAME_PORT,
    LYING_PORT_NAME,
    PORT_NAME,
)
from dockermesh.analysis.objects import AnalyzedObject, dig
from dockermesh.analysis.services import AnalyzedPort, kubernetes_ports
from dockermesh.config.api.service_entry import Resolution, ServiceEntry
from dockermesh.config.findings import Finding
from dockermesh.model.protocol import Protocol, parse_protocol

_TLS = frozenset({Protocol.HTTPS, Protocol.TLS})
_SPOKEN = frozenset(
    {
        "tcp",
        "udp",
        "grpc",
        "http",
        "http_proxy",
        "http2",
        "https",
        "tls",
        "mongo",
        "redis",
        "mysql",
    }
)
_MESH_OWN = frozenset({"hbone", "double-hbone"})
_APP_PROTOCOLS = frozenset(
    {"kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"}
)
_KNOWN_PORTS = frozenset({25, 53, 3306, 27017})
"""Ports where Istio takes TCP for granted."""


def addresses(context: Context) -> Iterator[Finding]:
    """A TCP port of a ServiceEntry is found by its address: its own, or the one that the mesh gives
    to a host that it can resolve.
    """
    for item in context.istio("ServiceEntry"):
        if item.spec.addresses or not _lacks_address(item.spec):
            continue
        for index, port in enumerate(item.spec.ports):
            if port.protocol.upper() in ("", "TCP"):
                yield found(item, ADDRESSES_REQUIRED, at=("spec", "ports", index))


def _lacks_address(spec: ServiceEntry) -> bool:
    """Whether clients dial a host at addresses of which the mesh knows nothing."""
    is_resolved = spec.resolution is not Resolution.NONE
    return not is_resolved or any(host.startswith("*") for host in spec.hosts)


def port_names(context: Context) -> Iterator[Finding]:
    """Names of the ports of Kubernetes Services should tell the protocol."""
    for item in context.kubernetes("Service"):
        # What Istio installs itself is not for users to change.
        if "istio" in item.labels or item.labels.get("release") == "istio":
            continue
        is_external = dig(item.body, "spec", "type") == "ExternalName"
        for index, port in enumerate(kubernetes_ports(item)):
            if tells_protocol(port) and not (is_external and port.name == "tcp"):
                continue
            path = ("spec", "ports", index)
            if is_external:
                yield found(item, EXTERNAL_NAME_PORT, at=path)
            else:
                yield found(
                    item,
                    PORT_NAME,
                    port.name,
                    port.number,
                    port.target_text or port.number,
                    at=path,
                )


def tells_protocol(port: AnalyzedPort) -> bool:
    """Whether Istio needs no sniffing for the port (`pkg/config/kube/conversion.go`)."""
    # Proxies leave UDP alone.
    if port.protocol == "UDP":
        return True
    name = (port.app_protocol or port.name).lower()
    if (
        port.app_protocol in _APP_PROTOCOLS
        or name.startswith("grpc-web")
        or name in _MESH_OWN
    ):
        return True
    # `http-web`: the protocol stands before the first dash.
    return name.partition("-")[0] in _SPOKEN or port.number in _KNOWN_PORTS


def lying_port_names(context: Context) -> Iterator[Finding]:
    """A port whose name says another protocol than it is declared with: readers and tools are
    misled.
    """
    for item in context.istio("ServiceEntry"):
        for index, port in enumerate(item.spec.ports):
            yield from _compare(item, index, port.number, port.name, port.protocol)
    for item in context.kubernetes("Service"):
        for index, own in enumerate(kubernetes_ports(item)):
            if own.app_protocol:
                yield from _compare(item, index, own.number, own.name, own.app_protocol)


def _compare(
    item: AnalyzedObject, index: int, number: int, name: str, declared: str
) -> Iterator[Finding]:
    says, is_declared = parse_protocol(name.partition("-")[0]), parse_protocol(declared)
    if (
        says is not None
        and is_declared is not None
        and _family(says) != _family(is_declared)
    ):
        yield found(
            item,
            LYING_PORT_NAME,
            number,
            declared,
            name,
            says.value,
            at=("spec", "ports", index),
        )


def _family(protocol: Protocol) -> str:
    if protocol.is_http:
        return "http"
    return "tls" if protocol in _TLS else "udp" if protocol is Protocol.UDP else "tcp"
