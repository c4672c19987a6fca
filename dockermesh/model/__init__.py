"""The nouns of the mesh: frozen values without I/O, shared by every other package."""

from dockermesh.model.catalog import EMPTY_CATALOG, Catalog
from dockermesh.model.contract import (
    API_PORT,
    DEBUG_PORT,
    DNS_NAMES_PORT,
    DNS_PORT,
    ENDPOINTS_DNS_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    PROXY_UID,
    READINESS_PORT,
    TRUST_PATH,
    XDS_PLAINTEXT_PORT,
    XDS_TLS_PORT,
)
from dockermesh.model.identity import Identity
from dockermesh.model.protocol import Protocol
from dockermesh.model.refusal import Refusal, RefusedFor
from dockermesh.model.service import Endpoint, Health, Port, Resolution, Service
from dockermesh.model.workload import ProxyMode, ServedPort, Workload, WorkloadKind

__all__ = [
    "API_PORT",
    "DEBUG_PORT",
    "DNS_NAMES_PORT",
    "DNS_PORT",
    "EMPTY_CATALOG",
    "ENDPOINTS_DNS_PORT",
    "INBOUND_PORT",
    "OUTBOUND_PORT",
    "PROXY_UID",
    "READINESS_PORT",
    "TRUST_PATH",
    "XDS_PLAINTEXT_PORT",
    "XDS_TLS_PORT",
    "Catalog",
    "Endpoint",
    "Health",
    "Identity",
    "Port",
    "Protocol",
    "ProxyMode",
    "Refusal",
    "RefusedFor",
    "Resolution",
    "ServedPort",
    "Service",
    "Workload",
    "WorkloadKind",
]
