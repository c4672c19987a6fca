"""TLS that a gateway or a Sidecar's listener terminates."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2

from dockermesh.config.api.gateway import ServerTlsMode, ServerTlsSettings, TlsProtocol
from dockermesh.config.rules.gateway import CIPHER_SUITES
from dockermesh.translate.envoy.isolation import Unsound
from dockermesh.translate.envoy.packing import boolean, pack
from dockermesh.translate.tls import secrets

PASSES_THROUGH = frozenset({ServerTlsMode.PASSTHROUGH, ServerTlsMode.AUTO_PASSTHROUGH})
_ASKS = frozenset(
    {ServerTlsMode.MUTUAL, ServerTlsMode.ISTIO_MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL}
)
_SHA256_BYTES = 32
_VERSIONS = {
    TlsProtocol.TLSV1_0: common_pb2.TlsParameters.TLSv1_0,
    TlsProtocol.TLSV1_1: common_pb2.TlsParameters.TLSv1_1,
    TlsProtocol.TLSV1_2: common_pb2.TlsParameters.TLSv1_2,
    TlsProtocol.TLSV1_3: common_pb2.TlsParameters.TLSv1_3,
}


def certificates(tls: ServerTlsSettings) -> list[str]:
    """The secrets of the server's own certificates."""
    if tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        return [secrets.WORKLOAD_CERTIFICATE]
    # Several are for clients of different abilities (RSA and ECDSA): Envoy chooses.
    names = [n for n in (*tls.credential_names, tls.credential_name) if n]
    if names:
        return [secrets.credential(name) for name in dict.fromkeys(names)]
    pairs = [(c.server_certificate, c.private_key) for c in tls.tls_certificates]
    if tls.server_certificate:
        pairs.append((tls.server_certificate, tls.private_key))
    return [secrets.file_certificate(*pair) for pair in dict.fromkeys(pairs)]


def roots(tls: ServerTlsSettings) -> str:
    """The secret of what clients' certificates are checked against; empty if none is asked for."""
    if tls.mode not in _ASKS:
        return ""
    if tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        return secrets.MESH_ROOT
    if tls.ca_cert_credential_name:
        return secrets.credential_root(tls.ca_cert_credential_name)
    if tls.credential_name or tls.credential_names:
        return secrets.credential_root(tls.credential_name or tls.credential_names[0])

    return _root_file(tls)


def _root_file(tls: ServerTlsSettings) -> str:
    # Clients are checked once, whichever of the server's certificates they are shown: one set of
    # roots counts, the first.
    files = [tls.ca_certificates, *(c.ca_certificates for c in tls.tls_certificates)]
    file = next((f for f in files if f), "")
    return secrets.file_root(file) if file else ""


def secret_names(tls: ServerTlsSettings) -> list[str]:
    """Every secret that the transport socket refers to."""
    return [name for name in (*certificates(tls), roots(tls)) if name]


def transport_socket(tls: ServerTlsSettings, *, is_http: bool) -> Any:
    """The TLS transport socket of a filter chain; None if the settings name no certificate."""
    own = certificates(tls)
    if not own:
        return None

    context = tls_pb2.DownstreamTlsContext()
    common = context.common_tls_context
    if is_http:
        common.alpn_protocols.extend(["h2", "http/1.1"])
    common.tls_certificate_sds_secret_configs.extend(secrets.sds(name) for name in own)
    parameters = common.tls_params
    parameters.tls_minimum_protocol_version = _VERSIONS.get(
        tls.min_protocol_version, common_pb2.TlsParameters.TLSv1_2
    )
    if tls.max_protocol_version in _VERSIONS:
        parameters.tls_maximum_protocol_version = _VERSIONS[tls.max_protocol_version]
    # Envoy refuses a listener with one it does not know; validation has warned of it.
    parameters.cipher_suites.extend(
        c for c in dict.fromkeys(tls.cipher_suites) if c == "ALL" or c in CIPHER_SUITES
    )
    trusted = roots(tls)
    if trusted:
        _check_clients(context, tls, trusted)

    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=pack(context)
    )


def _digest(text: str) -> str:
    """The text, if it is the base64 of a SHA-256. Raises Unsound otherwise."""
    try:
        # Envoy would refuse the listener, with all its other servers.
        if len(base64.b64decode(text, validate=True)) == _SHA256_BYTES:
            return base64.b64encode(base64.b64decode(text)).decode()
    except (binascii.Error, ValueError):
        pass
    raise Unsound(f"verifyCertificateSpki {text!r} is not the base64 of a SHA-256")


def _check_clients(
    context: tls_pb2.DownstreamTlsContext, tls: ServerTlsSettings, trusted: str
) -> None:
    context.require_client_certificate.CopyFrom(
        boolean(tls.mode is not ServerTlsMode.OPTIONAL_MUTUAL)
    )
    combined = context.common_tls_context.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(secrets.sds(trusted))
    validation = combined.default_validation_context
    # Envoy wants both halves of a combined context, the second one also where it is empty.
    validation.SetInParent()
    validation.verify_certificate_spki.extend(map(_digest, tls.verify_certificate_spki))
    validation.verify_certificate_hash.extend(tls.verify_certificate_hash)
    kinds = common_pb2.SubjectAltNameMatcher

    for name in tls.subject_alt_names:
        kind = kinds.URI if "://" in name else kinds.DNS
        validation.match_typed_subject_alt_names.add(
            san_type=kind, matcher=string_pb2.StringMatcher(exact=name)
        )
