"""The nouns of the mesh: frozen values without I/O, shared by every other package."""

from dockermesh.model.catalog import EMPTY_CATALOG, Catalog
from dockermesh.model.contract import (
    ADMIN_PORT,
    API_PORT,
    DEBUG_PORT,
    DNS_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    PROMETHEUS_PORT,
    PROXY_UID,
    READINESS_PORT,
    TRUST_PATH,
    XDS_PLAINTEXT_PORT,
    XDS_TLS_PORT,
)
from dockermesh.model.identity import Identity
from dockermesh.model.protocol import Protocol
from dockermesh.model.service import Endpoint, Health, Port, Resolution, Service
from dockermesh.model.workload import ServedPort, Workload, WorkloadKind

__all__ = [
    "ADMIN_PORT",
    "API_PORT",
    "DEBUG_PORT",
    "DNS_PORT",
    "EMPTY_CATALOG",
    "INBOUND_PORT",
    "OUTBOUND_PORT",
    "PROMETHEUS_PORT",
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
    "Resolution",
    "ServedPort",
    "Service",
    "Workload",
    "WorkloadKind",
]
