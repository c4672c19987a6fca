"""Gateway: what a proxy at the edge listens on, and with which certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dockermesh.config.fields import REQUIRED, UInt32


class ServerTlsMode(StrEnum):
    """What a server does with TLS."""

    # Routed by SNI, and never decrypted.
    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    # As PASSTHROUGH, to the service whose name the SNI itself says: between networks.
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    # A client may show a certificate; one that it shows must be valid.
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


class TlsProtocol(StrEnum):
    """A TLS version."""

    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A pair of files."""

    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


@dataclass(frozen=True, slots=True)
class ServerTlsSettings:
    """TLS of a server."""

    # Plain HTTP is answered with 301, whatever the routes say.
    https_redirect: bool = False
    mode: ServerTlsMode = ServerTlsMode.PASSTHROUGH
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    # For a certificate with an RSA key beside one with an elliptic key.
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TlsCertificate, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    # Base64 of the SHA-256 of the public key; `hash` is that of the certificate, in hex.
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    # TLS_AUTO is 1.2 for servers.
    min_protocol_version: TlsProtocol = TlsProtocol.TLS_AUTO
    max_protocol_version: TlsProtocol = TlsProtocol.TLS_AUTO
    # Of TLS 1.2 and below: those of 1.3 cannot be chosen.
    cipher_suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerPort:
    """The port a server, or a Sidecar's listener, listens on."""

    number: UInt32 = 0
    protocol: str = ""
    name: str = ""
    target_port: UInt32 = 0


@dataclass(frozen=True, slots=True)
class Server:
    """One listening port and the hosts it answers for."""

    port: ServerPort | None = field(default=None, metadata=REQUIRED)
    # Empty: every address.
    bind: str = ""
    # `namespace/host` lets only VirtualServices of that namespace be bound.
    hosts: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    tls: ServerTlsSettings | None = None
    default_endpoint: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Servers on the gateway workloads that `selector` finds (empty: all)."""

    servers: tuple[Server, ...] = ()
    # Looked up in all namespaces, unlike the selectors of other kinds.
    selector: Mapping[str, str] = field(default_factory=dict)
