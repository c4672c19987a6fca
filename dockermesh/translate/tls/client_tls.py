"""TLS that the proxy originates towards a service, as a DestinationRule asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2

from dockermesh.config.api.destination_rule import ClientTlsMode, ClientTlsSettings
from dockermesh.model import Port, Service
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.tls import secrets

_ORIGINATES = frozenset({ClientTlsMode.SIMPLE, ClientTlsMode.MUTUAL})


def originates(tls: ClientTlsSettings | None) -> TypeGuard[ClientTlsSettings]:
    """Whether the proxy speaks TLS with certificates that the user names."""
    return tls is not None and tls.mode in _ORIGINATES


def takes_server_name_from_request(tls: ClientTlsSettings, port: Port) -> bool:
    """Whether the SNI is the request's host: nothing else is said, and there are requests."""
    return not tls.sni and port.protocol.is_http


def client_certificate(tls: ClientTlsSettings) -> str:
    """The secret of the proxy's own certificate; empty if it shows none."""
    if tls.mode is not ClientTlsMode.MUTUAL:
        return ""
    # A credential takes the place of files: Istio lets only one of the two be there.
    if tls.credential_name:
        return secrets.credential(tls.credential_name)
    return secrets.file_certificate(tls.client_certificate, tls.private_key)


def trusted_roots(tls: ClientTlsSettings, *, verify: bool) -> str:
    """The secret of what the server's certificate is checked against; empty if it is not
    checked.
    """
    if tls.insecure_skip_verify:
        return ""
    if tls.credential_name:
        return secrets.credential_root(tls.credential_name)
    if tls.ca_certificates:
        return secrets.file_root(tls.ca_certificates)
    return secrets.file_root("system") if verify else ""


def secret_names(tls: ClientTlsSettings | None, *, verify: bool) -> tuple[str, ...]:
    """The secrets that the transport socket refers to."""
    if not originates(tls):
        return ()
    return tuple(
        name
        for name in (client_certificate(tls), trusted_roots(tls, verify=verify))
        if name
    )


def transport_socket(
    tls: ClientTlsSettings, service: Service, port: Port, *, verify: bool, http2: bool
) -> Any:
    """The TLS transport socket of a cluster."""
    context = tls_pb2.UpstreamTlsContext(sni=_server_name(tls, service, port))
    common = context.common_tls_context

    # An outside server must not be offered what the cluster would not speak.
    if http2:
        common.alpn_protocols.append("h2")
    elif port.protocol.is_http:
        common.alpn_protocols.append("http/1.1")

    certificate = client_certificate(tls)
    if certificate:
        common.tls_certificate_sds_secret_configs.append(secrets.sds(certificate))
    roots = trusted_roots(tls, verify=verify)

    if roots:
        combined = common.combined_validation_context
        combined.validation_context_sds_secret_config.CopyFrom(secrets.sds(roots))
        # Envoy wants both halves of a combined context, the second one also where it is empty.
        combined.default_validation_context.SetInParent()
        combined.default_validation_context.match_typed_subject_alt_names.extend(
            _expected(tls, service, context.sni)
        )

    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=pack(context)
    )


def _server_name(tls: ClientTlsSettings, service: Service, port: Port) -> str:
    if tls.sni or takes_server_name_from_request(tls, port):
        return tls.sni
    # A wildcard is the name of no server.
    return "" if service.hostname.startswith("*") else service.hostname


def _expected(tls: ClientTlsSettings, service: Service, sni: str) -> list[Any]:
    """The names of which the server's certificate must have one; the SNI where none are given."""
    wanted: Iterable[str] = (
        tls.subject_alt_names or service.subject_alt_names or ((sni,) if sni else ())
    )
    kinds = common_pb2.SubjectAltNameMatcher
    return [
        kinds(san_type=kind, matcher=string_pb2.StringMatcher(exact=name))
        for name in wanted
        for kind in ((kinds.URI,) if "://" in name else (kinds.DNS,))
    ]
