"""Gateway: what a proxy at the edge listens on, and with which certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dockermesh.config.fields import REQUIRED, UInt32


class ServerTlsMode(StrEnum):
    """What a server does with TLS."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
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

    https_redirect: bool = False
    mode: ServerTlsMode = ServerTlsMode.PASSTHROUGH
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TlsCertificate, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TlsProtocol = TlsProtocol.TLS_AUTO
    max_protocol_version: TlsProtocol = TlsProtocol.TLS_AUTO
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
    bind: str = ""
    hosts: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    tls: ServerTlsSettings | None = None
    default_endpoint: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Servers on the gateway workloads that `selector` finds (empty: all)."""

    servers: tuple[Server, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
