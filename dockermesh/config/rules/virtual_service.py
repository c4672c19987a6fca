"""Rules of VirtualService as a whole, and of its TLS and TCP routes."""

from __future__ import annotations

from dockermesh.config.api.virtual_service import (
    L4MatchAttributes,
    TCPRoute,
    TLSMatchAttributes,
    TLSRoute,
    VirtualService,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.hosts import covering, covering_wildcard
from dockermesh.config.resource import Resource
from dockermesh.config.rules.headers import is_jwt_claim
from dockermesh.config.rules.http_route import check_http_route
from dockermesh.config.rules.names import (
    check_gateway_bound_host,
    check_host,
    check_subnet,
    is_ip_address,
)
from dockermesh.config.rules.routing import (
    check_destinations,
    check_gateway_names,
    check_source,
)
from dockermesh.config.rules.scope import check_export, check_labels, report
from dockermesh.config.rules.shadowing import warn_shadowed

_MESH = "mesh"


def check_virtual_service(resource: Resource[VirtualService], at: Cursor) -> None:
    """All rules of a VirtualService."""
    spec = resource.spec
    if not spec.hosts:
        _check_delegate(spec, at)
    check_gateway_names(spec.gateways, at / "gateways")
    _check_hosts(spec, at / "hosts")

    # A sidecar does not check the tokens of what its own app sends, so it knows no claims.
    if not _is_gateway_only(spec):
        _check_claims(spec, at / "http")
    if not (spec.http or spec.tcp or spec.tls):
        at.error("http, tcp or tls must be provided")
    for index, http in enumerate(spec.http):
        check_http_route(http, at / "http" / index, is_delegate=not spec.hosts)
    for index, tls in enumerate(spec.tls):
        _check_tls_route(tls, spec, at / "tls" / index)
    for index, tcp in enumerate(spec.tcp):
        _check_tcp_route(tcp, at / "tcp" / index)
    check_export(spec.export_to, resource.namespace, at / "exportTo")
    warn_shadowed(spec, at)


def _check_delegate(spec: VirtualService, at: Cursor) -> None:
    # Its root says for whom it is; only HTTP rules can be delegated.
    for name, given in (
        ("gateways", spec.gateways),
        ("tls", spec.tls),
        ("tcp", spec.tcp),
    ):
        if given:
            (at / name).error(
                f"a VirtualService without hosts is a delegate and must have no {name}"
            )


def _is_gateway_only(spec: VirtualService) -> bool:
    return bool(spec.gateways) and _MESH not in spec.gateways


def _has_sni(spec: VirtualService) -> bool:
    return any(match.sni_hosts for tls in spec.tls for match in tls.match)


def _check_hosts(spec: VirtualService, at: Cursor) -> None:
    gateway_only = _is_gateway_only(spec)
    all_valid = True
    for index, host in enumerate(spec.hosts):
        wrong = (
            check_gateway_bound_host(host, sni=_has_sni(spec))
            if gateway_only
            else check_host(host)
        )
        if not wrong and not gateway_only and host == "*":
            wrong = "wildcard host * is not allowed for the sidecars; name a gateway, or the hosts"
        # An address is a valid host for TCP, though no domain name.
        if wrong and not is_ip_address(host):
            (at / index).error(wrong)
            all_valid = False

    if all_valid:
        _check_distinct(spec.hosts, at)


def _check_distinct(hosts: tuple[str, ...], at: Cursor) -> None:
    """No host is given twice, and no wildcard covers another host."""
    patterns: set[str] = set()
    for index, host in enumerate(hosts):
        if host.lower() in patterns:
            (at / index).error(f"duplicate host {host!r}")
        patterns.add(host.lower())
    for index, host in enumerate(hosts):
        other = covering_wildcard(patterns, host)
        if other is not None:
            (at / index).error(f"duplicate hosts: {host!r} is covered by {other!r}")


def _check_claims(spec: VirtualService, at: Cursor) -> None:
    for index, http in enumerate(spec.http):
        for number, match in enumerate(http.match):
            for field, headers in (
                ("headers", match.headers),
                ("withoutHeaders", match.without_headers),
            ):
                for name in headers:
                    if is_jwt_claim(name):
                        (at / index / "match" / number / field / name).error(
                            "routing on a JWT claim is only supported on gateways"
                        )


def _check_tls_route(tls: TLSRoute, spec: VirtualService, at: Cursor) -> None:
    if not tls.match:
        (at / "match").error("a TLS route must have at least one match")
    for index, match in enumerate(tls.match):
        _check_tls_match(match, spec, at / "match" / index)
    if not tls.route:
        (at / "route").error("a TLS route must have a route")
    check_destinations(tls.route, at / "route")


def _check_tls_match(
    match: TLSMatchAttributes, spec: VirtualService, at: Cursor
) -> None:
    if not match.sni_hosts:
        (at / "sniHosts").error("a TLS match must have at least one SNI host")
    # DNS ignores case, and so does SNI.
    patterns = frozenset(host.lower() for host in spec.hosts)
    for index, host in enumerate(match.sni_hosts):
        _check_sni_host(host, spec, patterns, at / "sniHosts" / index)
    _check_connection(match, at)


def _check_sni_host(
    host: str, spec: VirtualService, patterns: frozenset[str], at: Cursor
) -> None:
    wrong = (
        check_gateway_bound_host(host, sni=True)
        if _is_gateway_only(spec)
        else check_host(host)
    )
    if wrong:
        # TLS has no SNI for addresses, but some clients send one all the same.
        if is_ip_address(host):
            at.warn(f"an IP address ({host!r}) is no SNI, most clients do not send one")
        else:
            at.error(wrong)
    elif covering(patterns, host) is None:
        at.error(f"SNI host {host!r} is not covered by the hosts of the VirtualService")


def _check_tcp_route(tcp: TCPRoute, at: Cursor) -> None:
    for index, match in enumerate(tcp.match):
        _check_connection(match, at / "match" / index)
        if match.source_subnet:
            report(
                at / "match" / index / "sourceSubnet", check_subnet(match.source_subnet)
            )
    if not tcp.route:
        (at / "route").error("a TCP route must have a route")
    check_destinations(tcp.route, at / "route")


def _check_connection(
    match: TLSMatchAttributes | L4MatchAttributes, at: Cursor
) -> None:
    for index, subnet in enumerate(match.destination_subnets):
        report(at / "destinationSubnets" / index, check_subnet(subnet))
    check_source(match.port, match.source_namespace, at)
    check_labels(match.source_labels, at / "sourceLabels")
    check_gateway_names(match.gateways, at / "gateways")
