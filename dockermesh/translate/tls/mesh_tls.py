"""Mutual TLS with the certificates that the mesh issues: both ends of a connection between two
proxies.

The client names the cluster it calls in the SNI and offers an application protocol that only
proxies know, so that a server that also takes plaintext tells it from an app's own TLS. Each end
verifies the other against the mesh's roots: the server that the client is of a trusted domain, the
client that the server has an identity that the service may have. Source: Istio's
`pilot/pkg/networking/core/{filterchain_options,cluster_tls}.go` and
`pilot/pkg/security/authn/utils`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import struct_pb2

from dockermesh.config.api.destination_rule import ClientTlsMode, ClientTlsSettings
from dockermesh.config.api.gateway import TlsProtocol
from dockermesh.model import Identity, Port, Protocol, Service
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.client_state import certify_client
from dockermesh.translate.envoy.offered import (
    HTTP1,
    HTTP2,
    HTTP_PROTOCOL,
    Spoken,
    offer_for_requests,
    offer_for_upgrades,
)
from dockermesh.translate.envoy.packing import boolean, pack
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.tls import secrets

SOCKET_MATCH = "envoy.transport_socket_match"
"""The metadata of an endpoint by which Envoy picks one of its cluster's transport sockets."""
TLS_MODE = "tlsMode"
ISTIO = "istio"
HTTP_PROTOCOLS = ("istio-http/1.0", HTTP_PROTOCOL, "istio-h2")
BOTH_HTTP = (HTTP2, HTTP1)
PROTOCOLS = (ISTIO, "istio-peer-exchange", *HTTP_PROTOCOLS)
"""Every application protocol that proxies of a mesh offer, ours and Istio's."""
_LONGEST_SNI = 255
# Of TLS 1.2 alone: those of 1.3 are not for choice.
_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_Matcher = common_pb2.SubjectAltNameMatcher
_Parameters = common_pb2.TlsParameters


def server_socket(
    settings: MeshSettings,
    *,
    protocols: Iterable[str] = (),
    peers: Iterable[Any] = (),
    certificate: str = secrets.WORKLOAD_CERTIFICATE,
) -> base_pb2.TransportSocket:
    """The transport socket of a filter chain that takes connections from members of the mesh alone,
    or from these `peers` alone. `protocols` are those that it agrees on, the best first.
    """
    context = tls_pb2.DownstreamTlsContext(require_client_certificate=boolean(True))
    common = context.common_tls_context
    # Of what a client offers the server takes one of these. The names that only proxies know are
    # not among them: they choose the filter chain, and are never agreed on.
    common.alpn_protocols.extend(protocols)
    parameters = common.tls_params
    is_13 = settings.minimum_tls is TlsProtocol.TLSV1_3
    parameters.tls_minimum_protocol_version = (
        _Parameters.TLSv1_3 if is_13 else _Parameters.TLSv1_2
    )
    parameters.tls_maximum_protocol_version = _Parameters.TLSv1_3
    parameters.cipher_suites.extend(_CIPHERS)
    _show(common, certificate)
    _verify(common, tuple(peers) or members(settings))
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=pack(context)
    )


def set_client(
    cluster: cluster_pb2.Cluster,
    service: Service,
    port: Port,
    settings: MeshSettings,
    *,
    tls: ClientTlsSettings | None,
    subset: str,
    spoken: Spoken,
    is_assumed: bool = False,
    at_node: bool = False,
) -> None:
    """Have a cluster speak mutual TLS: to all its endpoints if a rule says so, or what is spoken is
    negotiated; else to those that take it. `is_assumed`: nobody says that the port speaks HTTP.
    """
    sni = (
        tls.sni
        if tls is not None and tls.sni
        else names.sni_cluster(service.hostname, port.number, subset)
    )
    is_negotiated = spoken is Spoken.NEGOTIATED
    is_undeclared = is_assumed or port.protocol is Protocol.AUTO
    # Who names the identities takes the place of what is known of the service's workloads.
    given = tls.subject_alt_names if tls is not None else ()
    socket = client_socket(
        sni,
        named(given) if given else _servers(service, settings),
        # Bytes go through that of an undeclared port, too, which are nothing of the kind.
        http2=spoken is Spoken.HTTP2 or (is_negotiated and not is_undeclared),
        at_node=at_node,
    )

    # A rule holds for endpoints without a proxy, too: connections to them fail rather than go in
    # plaintext.
    if tls is not None or is_negotiated:
        cluster.transport_socket.CopyFrom(socket)
    else:
        cluster.transport_socket_matches.extend(per_endpoint(socket))

    # Requests and bytes go through one cluster here, and the server has to tell them apart.
    if is_undeclared:
        offer_for_requests(cluster.metadata, http2=is_negotiated, is_http1=is_assumed)
    elif is_negotiated:
        offer_for_upgrades(cluster.metadata)


def is_asked_for(tls: ClientTlsSettings) -> bool:
    """Whether a rule asks for the mesh's own mutual TLS."""
    return tls.mode is ClientTlsMode.ISTIO_MUTUAL


def is_automatic(
    cluster: cluster_pb2.Cluster, service: Service, settings: MeshSettings
) -> bool:
    """Whether mutual TLS is used without a rule: inside the mesh, where it is known which endpoint
    is called.
    """
    # What goes to the address that the client dialled may be an endpoint without a proxy.
    is_known = cluster.type != cluster_pb2.Cluster.ORIGINAL_DST
    return (
        settings.auto_mtls
        and service.is_meshed
        and not service.is_external
        and is_known
    )


def _servers(service: Service, settings: MeshSettings) -> list[Any]:
    """The identities that servers of the service may have; any of the mesh where none is known."""
    domains = dict.fromkeys((settings.trust_domain, *settings.trust_domain_aliases))
    # In all domains: while a mesh moves to another trust domain, servers have the one or the other.
    known = [
        str(Identity(domain, *account))
        for domain in domains
        for account in service.accounts
    ]
    expected = list(dict.fromkeys((*service.subject_alt_names, *known)))
    return named(expected) if expected else members(settings)


def client_socket(
    sni: str, peers: Iterable[Any], *, http2: bool, at_node: bool = False
) -> base_pb2.TransportSocket:
    """The transport socket towards a server that has one of the identities `peers`; `at_node`: with
    the certificate of whoever calls.
    """
    # Envoy refuses a longer one. Pods do without: their chains go by port and protocol.
    context = tls_pb2.UpstreamTlsContext(sni=sni if len(sni) <= _LONGEST_SNI else "")
    common = context.common_tls_context
    common.alpn_protocols.extend([ISTIO, HTTP2] if http2 else [ISTIO])
    # Both ends of the range: as a client Envoy stops at 1.2 of its own accord, and could not
    # connect at all to a mesh that asks for 1.3.
    common.tls_params.tls_minimum_protocol_version = _Parameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = _Parameters.TLSv1_3
    if at_node:
        certify_client(common)
    else:
        _show(common, secrets.WORKLOAD_CERTIFICATE)
    _verify(common, peers)
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=pack(context)
    )


def per_endpoint(
    socket: base_pb2.TransportSocket,
) -> list[cluster_pb2.Cluster.TransportSocketMatch]:
    """The socket for endpoints that a proxy stands in front of, and plaintext for all others."""
    plain = base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer",
        typed_config=pack(raw_buffer_pb2.RawBuffer()),
    )
    # The first that matches is taken, and the empty one matches all: it is last.
    match = cluster_pb2.Cluster.TransportSocketMatch
    return [
        match(name=f"{TLS_MODE}-{ISTIO}", match=_mode(), transport_socket=socket),
        match(
            name=f"{TLS_MODE}-disabled",
            match=struct_pb2.Struct(),
            transport_socket=plain,
        ),
    ]


def endpoint_metadata() -> base_pb2.Metadata:
    """The metadata of an endpoint that a proxy stands in front of."""
    return base_pb2.Metadata(filter_metadata={SOCKET_MATCH: _mode()})


def members(settings: MeshSettings) -> list[Any]:
    """Every identity of the trusted domains."""
    domains = dict.fromkeys((settings.trust_domain, *settings.trust_domain_aliases))
    return [
        _Matcher(
            san_type=_Matcher.URI,
            # With the slash: `mesh.example.evil` is not of the domain `mesh.example`.
            matcher=string_pb2.StringMatcher(prefix=f"spiffe://{domain}/"),
        )
        for domain in domains
    ]


def named(names: Iterable[str]) -> list[Any]:
    """Exactly these names: identities as URIs, all others as DNS names."""
    return [
        _Matcher(
            san_type=_Matcher.URI if "://" in name else _Matcher.DNS,
            matcher=string_pb2.StringMatcher(exact=name),
        )
        for name in names
    ]


def _mode() -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={TLS_MODE: struct_pb2.Value(string_value=ISTIO)})


def _show(common: tls_pb2.CommonTlsContext, certificate: str) -> None:
    common.tls_certificate_sds_secret_configs.append(secrets.sds(certificate))


def _verify(common: tls_pb2.CommonTlsContext, peers: Iterable[Any]) -> None:
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(
        secrets.sds(secrets.MESH_ROOT)
    )
    # Envoy wants both halves of a combined context, the second one also where it is empty.
    combined.default_validation_context.SetInParent()
    combined.default_validation_context.match_typed_subject_alt_names.extend(peers)
