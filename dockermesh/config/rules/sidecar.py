"""Rules of Sidecar."""

from __future__ import annotations

from dockermesh.config.api.gateway import ServerTlsMode, ServerTlsSettings
from dockermesh.config.api.sidecar import (
    EXCLUDED,
    CaptureMode,
    IstioEgressListener,
    IstioIngressListener,
    OutboundTrafficPolicy,
    OutboundTrafficPolicyMode,
    Sidecar,
    SidecarPort,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.destination_rule import check_connection_pool
from dockermesh.config.rules.gateway import check_server_tls
from dockermesh.config.rules.names import (
    UNIX_PREFIX,
    check_fqdn,
    check_host,
    check_ip_address,
    check_label,
    check_port,
    check_protocol,
    check_unix_path,
    is_http,
    is_label,
    is_partial_wildcard,
    is_tls,
)
from dockermesh.config.rules.routing import check_destination
from dockermesh.config.rules.scope import check_workload_selector, report

# The app is in the same network namespace as its proxy.
_OWN_ADDRESSES = ("", "127.0.0.1", "0.0.0.0", "[::1]", "[::]")


def check_sidecar(resource: Resource[Sidecar], at: Cursor) -> None:
    """All rules of a Sidecar."""
    spec = resource.spec
    check_workload_selector(spec.workload_selector, at / "workloadSelector")
    given = (
        spec.egress,
        spec.ingress,
        spec.outbound_traffic_policy,
        spec.inbound_connection_pool,
    )
    if not any(part or (part is not None and part != ()) for part in given):
        at.error(
            "a sidecar must have at least one of ingress, egress, outboundTrafficPolicy,"
            " inboundConnectionPool"
        )

    ports: set[int] = set()
    for index, ingress in enumerate(spec.ingress):
        if ingress.port is not None:
            _check_ingress(ingress, ingress.port, at / "ingress" / index)
            if ingress.port.number in ports:
                (at / "ingress" / index / "port" / "number").error(
                    "ports of listeners must be unique"
                )
            ports.add(ingress.port.number)

    check_connection_pool(spec.inbound_connection_pool, at / "inboundConnectionPool")
    _check_egress_listeners(spec.egress, resource.namespace, at / "egress")
    if spec.outbound_traffic_policy is not None:
        _check_outbound(spec.outbound_traffic_policy, at / "outboundTrafficPolicy")


def _check_ingress(
    ingress: IstioIngressListener, port: SidecarPort, at: Cursor
) -> None:
    _check_listener_port(port, at / "port")
    report(at / "port" / "number", check_port(port.number))
    if ingress.bind:
        report(at / "bind", check_ip_address(ingress.bind))
    if ingress.default_endpoint:
        report(
            at / "defaultEndpoint", _check_default_endpoint(ingress.default_endpoint)
        )
    if ingress.tls is not None:
        _check_ingress_tls(ingress.tls, port, at / "tls")
    check_connection_pool(ingress.connection_pool, at / "connectionPool")

    if (
        ingress.connection_pool is not None
        and ingress.connection_pool.http is not None
        and not is_http(port.protocol)
    ):
        (at / "connectionPool" / "http").warn(
            f"has no effect: the port's protocol is {port.protocol or 'not declared'}"
        )


def _check_listener_port(port: SidecarPort, at: Cursor) -> None:
    if port.name:
        report(at / "name", check_label(port.name, "port name"))
    if port.protocol:
        report(at / "protocol", check_protocol(port.protocol))
    if port.target_port:
        (at / "targetPort").error("targetPort has no meaning for sidecars")


def _check_default_endpoint(endpoint: str) -> str:
    if endpoint.startswith(UNIX_PREFIX):
        return check_unix_path(endpoint.removeprefix(UNIX_PREFIX))
    host, colon, port = endpoint.rpartition(":")
    if not colon or host not in _OWN_ADDRESSES:
        return (
            "must be of the form 127.0.0.1:port, 0.0.0.0:port, [::1]:port, [::]:port or"
            " unix:///path"
        )
    if not port.isascii() or not port.isdecimal() or len(port) > 5:
        return f"port {port[:20]!r} is not a number"
    return check_port(int(port))


def _check_ingress_tls(tls: ServerTlsSettings, port: SidecarPort, at: Cursor) -> None:
    unsupported = {
        "subjectAltNames": tls.subject_alt_names,
        "httpsRedirect": tls.https_redirect,
        "credentialName": tls.credential_name,
        "credentialNames": tls.credential_names,
        "tlsCertificates": tls.tls_certificates,
    }
    for name, value in unsupported.items():
        if value:
            (at / name).error("is not supported in a sidecar's ingress TLS")
    # The mesh decides about its own TLS by PeerAuthentication, not here.
    if tls.mode in (ServerTlsMode.ISTIO_MUTUAL, ServerTlsMode.AUTO_PASSTHROUGH):
        (at / "mode").error(f"cannot be {tls.mode.value} in a sidecar's ingress TLS")
    if not is_tls(port.protocol):
        at.error("TLS settings are only allowed on HTTPS and TLS ports")
    check_server_tls(tls, at)


def _check_egress_listeners(
    egress: tuple[IstioEgressListener, ...], namespace: str, at: Cursor
) -> None:
    ports: set[int] = set()
    sockets: set[str] = set()
    for index, listener in enumerate(egress):
        place = at / index
        # It takes what the listeners with ports leave, so it can only come last.
        if listener.port is None:
            if index != len(egress) - 1:
                place.error(
                    "the listener without port must be the last one, and there can be only one"
                )
        elif listener.port.number == 0:
            _check_unix_listener(listener, listener.port, place)
            if listener.bind in sockets:
                (place / "bind").error(
                    "unix domain sockets of listeners must be unique"
                )
            sockets.add(listener.bind)
        else:
            _check_listener_port(listener.port, place / "port")
            report(place / "port" / "number", check_port(listener.port.number))
            if listener.bind:
                report(place / "bind", check_ip_address(listener.bind))
            if listener.port.number in ports:
                (place / "port" / "number").error("ports of listeners must be unique")
            ports.add(listener.port.number)
        _check_egress_hosts(listener.hosts, namespace, place / "hosts")


def _check_unix_listener(
    listener: IstioEgressListener, port: SidecarPort, at: Cursor
) -> None:
    _check_listener_port(port, at / "port")
    if not listener.bind.startswith(UNIX_PREFIX):
        (at / "bind").error("a port of 0 needs a unix domain socket as bind address")
    else:
        report(at / "bind", check_unix_path(listener.bind.removeprefix(UNIX_PREFIX)))
    # Nothing can be redirected to a socket.
    if listener.capture_mode not in (CaptureMode.DEFAULT, CaptureMode.NONE):
        (at / "captureMode").error("must be DEFAULT or NONE for unix domain sockets")


def _check_egress_hosts(hosts: tuple[str, ...], namespace: str, at: Cursor) -> None:
    if not hosts:
        at.error("an egress listener must have at least one host")

    seen: dict[str, set[str]] = {}
    for index, entry in enumerate(hosts):
        report(at / index, _check_egress_host(entry))
        space, slash, host = entry.partition("/")
        # What is taken out repeats nothing.
        if slash and not space.startswith(EXCLUDED):
            known = seen.setdefault(namespace if space == "." else space, set())
            if _is_repeated(host, known):
                (at / index).warn(f"duplicated egress host {entry!r}")
            known.add(host)

    if "*" in seen.get("*", ()) and seen.keys() != {"*"}:
        at.warn("'*/*' selects everything, so the other hosts have no effect")


def _is_repeated(host: str, known: set[str]) -> bool:
    """Whether a host adds nothing to those of its namespace, or leaves them nothing."""
    return host in known or "*" in known or (host == "*" and bool(known))


def _check_egress_host(entry: str) -> str:
    namespace, slash, host = entry.partition("/")
    if not slash:
        return f"host {entry!r} must be of the form namespace/host"
    if not namespace or not host:
        return "namespace and host must not be empty in 'namespace/host'"
    # `*` is every namespace, `.` the Sidecar's own.
    space = namespace.removeprefix(EXCLUDED)
    if space not in ("", "*", ".") and not is_label(space):
        return f"invalid namespace {namespace!r}"
    if host != "*" and "." not in host:
        return f"short name {host!r} is not allowed, use a fully qualified host"
    if is_partial_wildcard(host):
        return f"partial wildcard {host!r} is not allowed"
    return check_host(host)


def _check_outbound(policy: OutboundTrafficPolicy, at: Cursor) -> None:
    proxy = policy.egress_proxy
    if proxy is None:
        return
    if policy.mode is not OutboundTrafficPolicyMode.ALLOW_ANY:
        (at / "egressProxy").error("may only be set with mode ALLOW_ANY")
        return
    report(at / "egressProxy" / "host", check_fqdn(proxy.host))
    if proxy.port is None:
        (at / "egressProxy" / "port").missing()
    check_destination(proxy, at / "egressProxy")
