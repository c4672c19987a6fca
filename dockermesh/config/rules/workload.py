"""Rules of WorkloadEntry and WorkloadGroup, and of the endpoints of a ServiceEntry."""

from __future__ import annotations

from collections.abc import Collection

from dockermesh.config.api.workload import ReadinessProbe, WorkloadEntry, WorkloadGroup
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.headers import check_strict_name
from dockermesh.config.rules.names import (
    UNIX_PREFIX,
    check_fqdn,
    check_label,
    check_port,
    check_unix_path,
    is_ip_address,
)
from dockermesh.config.rules.scope import check_labels, report


def check_workload_entry(resource: Resource[WorkloadEntry], at: Cursor) -> None:
    """All rules of a WorkloadEntry."""
    check_endpoint(resource.spec, at, service_ports=None, names_allowed=True)


def check_endpoint(
    entry: WorkloadEntry,
    at: Cursor,
    *,
    service_ports: Collection[str] | None,
    names_allowed: bool,
) -> None:
    """An address with its ports; `service_ports` are the names that it may map, None if they are
    not known.
    """
    # An endpoint of another network is reached through that network's gateways.
    if not entry.address and not entry.network:
        (at / "address").error("address is required, unless network is set")
        return

    if not entry.address:
        (at / "address").warn(
            f"is unset, the gateways of network {entry.network!r} will be used"
        )
    elif entry.address.startswith(UNIX_PREFIX):
        _check_socket(entry, at, service_ports)
    elif not is_ip_address(entry.address):
        report(at / "address", _check_name(entry.address, is_allowed=names_allowed))

    check_port_map(entry, at / "ports", service_ports)
    check_labels(entry.labels, at / "labels")


def _check_socket(
    entry: WorkloadEntry, at: Cursor, service_ports: Collection[str] | None
) -> None:
    path = entry.address.removeprefix(UNIX_PREFIX)
    report(at / "address", check_unix_path(path))
    if entry.ports:
        (at / "ports").error("a unix endpoint must not have ports")
    # A socket is one port, so it can stand for one only.
    if service_ports is not None and len(service_ports) != 1:
        (at / "address").error("a unix endpoint needs exactly one service port")


def _check_name(name: str, *, is_allowed: bool) -> str:
    if not is_allowed:
        return f"{name!r} is not a valid IP address"
    if check_fqdn(name):
        return f"{name!r} is neither an IP address nor a fully qualified domain name"
    return ""


def check_port_map(
    entry: WorkloadEntry, at: Cursor, service_ports: Collection[str] | None
) -> None:
    """Names of the service's ports and the endpoint's numbers."""
    for name, number in entry.ports.items():
        if service_ports is not None and name not in service_ports:
            (at / name).error(f"port {name!r} is not defined by the service entry")
        report(at / name, check_label(name, "port name"))
        report(at / name, check_port(number))


def check_workload_group(resource: Resource[WorkloadGroup], at: Cursor) -> None:
    """All rules of a WorkloadGroup."""
    spec = resource.spec
    if spec.metadata is not None:
        check_labels(spec.metadata.labels, at / "metadata" / "labels")
    if spec.template is not None:
        check_port_map(spec.template, at / "template" / "ports", None)
        check_labels(spec.template.labels, at / "template" / "labels")
        if spec.template.address.startswith(UNIX_PREFIX):
            path = spec.template.address.removeprefix(UNIX_PREFIX)
            report(at / "template" / "address", check_unix_path(path))
    if spec.probe is not None:
        _check_probe(spec.probe, at / "probe")


def _check_probe(probe: ReadinessProbe, at: Cursor) -> None:
    numbers = {
        "periodSeconds": probe.period_seconds,
        "initialDelaySeconds": probe.initial_delay_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "successThreshold": probe.success_threshold,
        "failureThreshold": probe.failure_threshold,
    }
    for name, value in numbers.items():
        if value < 0:
            (at / name).error("must not be negative")
    if probe.http_get is not None:
        place = at / "httpGet"
        report(place / "port", check_port(probe.http_get.port))
        if probe.http_get.scheme not in ("", "HTTP", "HTTPS"):
            (place / "scheme").error("must be HTTP or HTTPS")
        for index, header in enumerate(probe.http_get.http_headers):
            report(
                place / "httpHeaders" / index / "name", check_strict_name(header.name)
            )
    elif probe.tcp_socket is not None:
        report(at / "tcpSocket" / "port", check_port(probe.tcp_socket.port))
    elif probe.exec is not None:
        if not probe.exec.command:
            (at / "exec" / "command").missing()
    elif probe.grpc is not None:
        report(at / "grpc" / "port", check_port(probe.grpc.port))
    else:
        at.error("a probe must have one of httpGet, tcpSocket, exec, grpc")
