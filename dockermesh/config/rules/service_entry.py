"""Rules of ServiceEntry."""

from __future__ import annotations

from dockermesh.config.api.service_entry import Resolution, ServiceEntry
from dockermesh.config.api.workload import WorkloadEntry
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.names import (
    check_fqdn,
    check_host,
    check_label,
    check_port,
    check_protocol,
    check_subnet,
    is_http,
    is_ip_address,
    is_partial_wildcard,
    is_tcp,
    is_tls,
)
from dockermesh.config.rules.scope import (
    check_export,
    check_labels,
    check_workload_selector,
    report,
)
from dockermesh.config.rules.workload import check_endpoint, check_port_map

_DNS = (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)


def check_service_entry(resource: Resource[ServiceEntry], at: Cursor) -> None:
    """All rules of a ServiceEntry."""
    spec = resource.spec
    check_workload_selector(spec.workload_selector, at / "workloadSelector")
    if spec.workload_selector is not None and spec.endpoints:
        (at / "endpoints").error(
            "only one of workloadSelector and endpoints may be set"
        )

    for index, host in enumerate(spec.hosts):
        # It would take the place of every service.
        if host == "*":
            (at / "hosts" / index).error("the host must not be *")
            continue
        report(at / "hosts" / index, check_host(host))
        if is_partial_wildcard(host):
            (at / "hosts" / index).warn(
                f"partial wildcard {host!r} is not allowed by other resources"
            )

    _check_addresses(spec, at)
    _check_ports(spec, at / "ports")
    _check_resolution(spec, at)
    _check_shared_ports(spec, at)
    check_export(spec.export_to, resource.namespace, at / "exportTo", service=True)


def _check_addresses(spec: ServiceEntry, at: Cursor) -> None:
    for index, address in enumerate(spec.addresses):
        report(at / "addresses" / index, check_subnet(address))
        if "/" in address and spec.resolution not in (
            Resolution.NONE,
            Resolution.STATIC,
        ):
            (at / "addresses" / index).error(
                "CIDR blocks are only allowed with resolution NONE or STATIC"
            )


def _check_ports(spec: ServiceEntry, at: Cursor) -> None:
    names: set[str] = set()
    numbers: set[int] = set()
    for index, port in enumerate(spec.ports):
        place = at / index
        if port.name in names:
            (place / "name").error(f"port name {port.name!r} is already defined")
        if port.number in numbers:
            (place / "number").error(f"port {port.number} is already defined")
        names.add(port.name)
        numbers.add(port.number)
        if port.target_port:
            report(place / "targetPort", check_port(port.target_port))
        report(place / "name", check_label(port.name, "port name"))

        if port.protocol:
            report(place / "protocol", check_protocol(port.protocol))
        report(place / "number", check_port(port.number))

        if (
            not spec.addresses
            and spec.resolution is Resolution.NONE
            and port.protocol.upper() in ("", "TCP")
        ):
            place.warn(
                "a TCP (or undeclared) port without addresses takes all connections to this port"
            )


def _check_resolution(spec: ServiceEntry, at: Cursor) -> None:
    names = {port.name for port in spec.ports}
    if spec.resolution is Resolution.NONE:
        if spec.endpoints:
            (at / "endpoints").error("no endpoints may be given with resolution NONE")
        if spec.workload_selector is not None:
            (at / "workloadSelector").warn("has no effect with resolution NONE")
    elif spec.resolution is Resolution.STATIC:
        for index, endpoint in enumerate(spec.endpoints):
            check_endpoint(
                endpoint,
                at / "endpoints" / index,
                service_ports=names,
                names_allowed=False,
            )
    elif spec.resolution is Resolution.DYNAMIC_DNS:
        _check_dynamic_dns(spec, at)
    else:
        _check_dns(spec, at, names)


def _check_dynamic_dns(spec: ServiceEntry, at: Cursor) -> None:
    for index, host in enumerate(spec.hosts):
        if not host.startswith("*."):
            (at / "hosts" / index).error(
                "must be a wildcard such as *.example.com with resolution DYNAMIC_DNS"
            )
    if spec.endpoints:
        (at / "endpoints").error(
            "no endpoints may be given with resolution DYNAMIC_DNS"
        )
    if spec.workload_selector is not None:
        (at / "workloadSelector").error("must not be set with resolution DYNAMIC_DNS")


def _check_dns(spec: ServiceEntry, at: Cursor, names: set[str]) -> None:
    if not spec.endpoints:
        _check_resolvable(spec, at / "hosts")
    # It becomes a logical DNS cluster of Envoy, which has one endpoint.
    if spec.resolution is Resolution.DNS_ROUND_ROBIN and len(spec.endpoints) > 1:
        (at / "endpoints").error(
            "there must be at most one endpoint with resolution DNS_ROUND_ROBIN"
        )
    for index, endpoint in enumerate(spec.endpoints):
        _check_dns_endpoint(endpoint, at / "endpoints" / index, names)

    is_by_address = bool(spec.addresses) and any(
        is_tcp(port.protocol) for port in spec.ports
    )
    if is_by_address and len(spec.hosts) > 1:
        (at / "hosts").warn(
            "with addresses and a TCP port there should be only one host"
        )


def _check_resolvable(spec: ServiceEntry, at: Cursor) -> None:
    """Without endpoints the hosts themselves are asked for."""
    for index, host in enumerate(spec.hosts):
        if check_fqdn(host):
            (at / index).error(
                "must be a fully qualified name, as there are no endpoints with resolution"
                f" {spec.resolution.value}"
            )


def _check_dns_endpoint(endpoint: WorkloadEntry, at: Cursor, names: set[str]) -> None:
    address = endpoint.address
    is_by_network = not address and bool(endpoint.network)
    if not is_by_network and not is_ip_address(address) and check_fqdn(address):
        (at / "address").error(
            f"{address!r} is neither an IP address nor a domain name"
        )
    check_labels(endpoint.labels, at / "labels")
    check_port_map(endpoint, at / "ports", names)


def _check_shared_ports(spec: ServiceEntry, at: Cursor) -> None:
    """Without a host in the protocol, connections to several hosts cannot be told apart."""
    # Without resolution the address tells them apart.
    if spec.resolution is Resolution.NONE or len(spec.hosts) < 2:
        return
    for index, port in enumerate(spec.ports):
        if not is_http(port.protocol) and not is_tls(port.protocol):
            (at / "ports" / index / "protocol").error(
                "several hosts need HTTP or TLS ports, which carry the host"
            )
