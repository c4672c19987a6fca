"""Rules of Gateway, and of the server TLS settings that Sidecar shares."""

from __future__ import annotations

from dockermesh.config.api.gateway import (
    Gateway,
    Server,
    ServerPort,
    ServerTlsMode,
    ServerTlsSettings,
    TlsCertificate,
    TlsProtocol,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.names import (
    UNIX_PREFIX,
    check_host,
    check_ip_address,
    check_port,
    check_protocol,
    check_unix_path,
    is_http,
    is_ip_address,
    is_label,
    is_partial_wildcard,
    is_tls,
)
from dockermesh.config.rules.scope import report

_PASSTHROUGH = (ServerTlsMode.PASSTHROUGH, ServerTlsMode.AUTO_PASSTHROUGH)
_MUTUAL = (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL)
# Istio's list; those of TLS 1.3 cannot be chosen.
CIPHER_SUITES = frozenset(
    f"{exchange}{cipher}"
    for exchange in ("ECDHE-ECDSA-", "ECDHE-RSA-", "")
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA")
) | {"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305", "DES-CBC3-SHA"}


def check_gateway(resource: Resource[Gateway], at: Cursor) -> None:
    """All rules of a Gateway."""
    spec = resource.spec
    if not is_label(resource.name):
        at.findings.at("metadata", "name").error(
            f"a gateway's name must be a DNS label, without dots: {resource.name!r}"
        )
    if not spec.servers:
        (at / "servers").error("a gateway must have at least one server")
    names: set[str] = set()
    for index, server in enumerate(spec.servers):
        place = at / "servers" / index
        _check_server(server, place)
        if server.port is None:
            continue

        if server.port.name and server.port.name in names:
            (place / "port" / "name").error(
                f"port names must be unique: {server.port.name!r} is used twice"
            )

        names.add(server.port.name)
        if (
            server.tls is not None
            and server.tls.https_redirect
            and not is_http(server.port.protocol)
        ):
            (place / "tls" / "httpsRedirect").warn(
                "should only be used with HTTP servers"
            )


def _check_server(server: Server, at: Cursor) -> None:
    if not server.hosts:
        (at / "hosts").error("a server must have at least one host")
    for index, host in enumerate(server.hosts):
        report(at / "hosts" / index, _check_server_host(host))
    if server.port is not None:
        _check_server_port(server.port, server.bind, at / "port")
        _check_bind(server.port, server.bind, at / "bind")
    if server.tls is not None:
        check_server_tls(server.tls, at / "tls")
    if server.port is not None and not check_protocol(server.port.protocol):
        _check_tls_fits(server, server.port, at / "tls")


def _check_server_host(host: str) -> str:
    namespace, slash, name = host.partition("/")
    if not slash:
        return _check_bare_host(host)

    if not namespace or not name:
        return "namespace and host must not be empty in 'namespace/host'"
    if namespace not in ("*", ".") and not is_label(namespace):
        return f"invalid namespace {namespace!r}"
    return _check_bare_host(name)


def _check_bare_host(name: str) -> str:
    if name != "*" and "." not in name and not is_ip_address(name):
        return f"short name {name!r} is not allowed, use a fully qualified host"
    if is_partial_wildcard(name):
        return f"partial wildcard {name!r} is not allowed"
    return "" if is_ip_address(name) else check_host(name)


def _check_server_port(port: ServerPort, bind: str, at: Cursor) -> None:
    report(at / "protocol", check_protocol(port.protocol))
    # A socket has no port; its number is then 0.
    if port.number > 0 or not bind.startswith(UNIX_PREFIX):
        report(at / "number", check_port(port.number, "port number"))
    if port.target_port:
        (at / "targetPort").error("targetPort has no meaning for gateways")
    if not port.name:
        (at / "name").error("port name must be set")


def _check_bind(port: ServerPort, bind: str, at: Cursor) -> None:
    if bind.startswith(UNIX_PREFIX):
        report(at, check_unix_path(bind.removeprefix(UNIX_PREFIX)))
        if port.number:
            at.error("the port number must be 0 for a unix domain socket")
    elif bind:
        report(at, check_ip_address(bind))


def _check_tls_fits(server: Server, port: ServerPort, at: Cursor) -> None:
    tls = server.tls
    if is_tls(port.protocol):
        if tls is None:
            at.error("HTTPS and TLS servers must have TLS settings")
        return
    if tls is None:
        return

    if not is_http(port.protocol):
        at.error("TLS settings are not allowed on ports that are neither HTTPS nor TLS")
    elif (
        tls.mode not in _PASSTHROUGH
        or tls.ca_certificates
        or tls.private_key
        or tls.server_certificate
    ):
        at.error(
            "TLS settings other than httpsRedirect are not allowed on plain HTTP ports"
        )


def check_server_tls(tls: ServerTlsSettings, at: Cursor) -> None:
    """The TLS settings of a server."""
    _check_versions(tls, at)
    if tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        _check_istio_mutual(tls, at)
        return

    if tls.mode in _PASSTHROUGH and (
        _certificate_sources(tls) or tls.server_certificate or tls.private_key
    ):
        (at / "mode").warn(
            f"{tls.mode.value} does not use certificates, they will be ignored"
        )
    if _certificate_sources(tls) > 1:
        at.error(
            "only one of credentialName, credentialNames, serverCertificate with privateKey,"
            " tlsCertificates may be set"
        )
    _check_files(tls, at)


def _certificate_sources(tls: ServerTlsSettings) -> int:
    pair = bool(tls.server_certificate and tls.private_key)
    return sum(
        (
            pair,
            bool(tls.credential_name),
            bool(tls.credential_names),
            bool(tls.tls_certificates),
        )
    )


def _check_files(tls: ServerTlsSettings, at: Cursor) -> None:
    from_credential = bool(tls.credential_name or tls.credential_names)
    # The certificates are in a Secret, whose content is checked when it is stored.
    if tls.mode in (ServerTlsMode.SIMPLE, *_MUTUAL) and from_credential:
        return
    if tls.mode is ServerTlsMode.SIMPLE or tls.mode in _MUTUAL:
        _check_pairs(tls, at)
    if tls.ca_crl:
        if tls.credential_name:
            (at / "caCrl").error(
                "is not supported with credentialName: the credential holds it"
            )
        if tls.mode is ServerTlsMode.SIMPLE:
            (at / "caCrl").error("CRL is not supported with SIMPLE TLS")


def _check_pairs(tls: ServerTlsSettings, at: Cursor) -> None:
    mode = "MUTUAL TLS" if tls.mode in _MUTUAL else "SIMPLE TLS"
    if tls.mode in _MUTUAL and not tls.ca_certificates:
        (at / "caCertificates").error(f"{mode} requires a client CA bundle")
    if len(tls.tls_certificates) > 2:
        (at / "tlsCertificates").warn(f"{mode} supports at most 2 server certificates")
    pairs = [
        (pair, at / "tlsCertificates" / index)
        for index, pair in enumerate(tls.tls_certificates)
    ]
    for pair, place in pairs or [
        (TlsCertificate(tls.server_certificate, tls.private_key), at)
    ]:
        if not pair.server_certificate:
            (place / "serverCertificate").error(f"{mode} requires a server certificate")
        if not pair.private_key:
            (place / "privateKey").error(f"{mode} requires a private key")


def _check_istio_mutual(tls: ServerTlsSettings, at: Cursor) -> None:
    forbidden = {
        "serverCertificate": (tls.server_certificate, "server certificate"),
        "privateKey": (tls.private_key, "private key"),
        "caCertificates": (tls.ca_certificates, "CA bundle"),
        "caCrl": (tls.ca_crl, "CRL"),
        "credentialName": (tls.credential_name, "credentialName"),
        "credentialNames": (tls.credential_names, "credentialNames"),
        "tlsCertificates": (tls.tls_certificates, "tlsCertificates"),
    }
    for name, (value, words) in forbidden.items():
        if value:
            (at / name).error(f"ISTIO_MUTUAL TLS cannot have associated {words}")


def _check_versions(tls: ServerTlsSettings, at: Cursor) -> None:
    # The ciphers that Istio has by default are of TLS 1.2.
    old = (TlsProtocol.TLSV1_0, TlsProtocol.TLSV1_1)
    if tls.min_protocol_version in old and not tls.cipher_suites:
        (at / "minProtocolVersion").warn(
            "versions below TLSV1_2 need cipherSuites, as no default one is compatible"
        )

    seen: set[str] = set()
    for index, suite in enumerate(tls.cipher_suites):
        # What begins with a sign is BoringSSL's syntax for groups of suites.
        if (
            suite
            and suite != "ALL"
            and suite[0].isalnum()
            and suite not in CIPHER_SUITES
        ):
            (at / "cipherSuites" / index).warn(
                f"cipher suite {suite!r} is not supported, it will be ignored"
            )
        elif suite in seen:
            (at / "cipherSuites" / index).warn(f"cipher suite {suite!r} is given twice")
        seen.add(suite)
