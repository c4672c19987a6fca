"""The labels of Istio's standard metrics, as formats that Envoy fills in.

What a proxy says of its own workload comes from its environment, so that proxies of all workloads
share listeners; what it says of the peer comes from the metadata of clusters and endpoints where it
is the client, and from the peer's certificate where it is the server. No label is taken from what
an app sends, but `request_protocol`, which has two values. Source of names and values: Istio's
*Standard Metrics*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

from dockermesh.model.canonical import UNKNOWN, Facts
from dockermesh.model.contract import (
    CLUSTER_ID,
    ENV_APP,
    ENV_CANONICAL_REVISION,
    ENV_CANONICAL_SERVICE,
    ENV_NAMESPACE,
    ENV_SERVICE,
    ENV_UNKNOWN,
    ENV_VERSION,
)
from dockermesh.translate.envoy.workload_metadata import (
    CLUSTER,
    HOST,
    METADATA,
    SERVICE,
    SERVICE_NAMESPACE,
)

Labels = Mapping[str, str]
"""Formats by label."""

_FACT_LABELS: Mapping[str, str] = {
    "name": "workload",
    "namespace": "workload_namespace",
    "app": "app",
    "version": "version",
    "service": "canonical_service",
    "revision": "canonical_revision",
}
"""What the facts about a workload are called after `source_` and `destination_`."""
_ENVIRONMENT = Facts(
    name=ENV_SERVICE,
    namespace=ENV_NAMESPACE,
    app=ENV_APP,
    version=ENV_VERSION,
    service=ENV_CANONICAL_SERVICE,
    revision=ENV_CANONICAL_REVISION,
)
FEW = (
    "reporter",
    "response_code",
    "connection_security_policy",
    "source_workload",
    "source_workload_namespace",
    "destination_workload",
    "destination_workload_namespace",
    "destination_service",
)
"""Those of histograms, unless a Telemetry asks for more: all that Istio's boards use. With every
label a request costs half as much again, and a scrape is many times as large.
"""


def peer_key(fact: str) -> str:
    """The state of a connection that has a fact about the client."""
    return f"{METADATA}.peer.{fact}"


def client_labels() -> Labels:
    """Of whom a proxy calls for its own app."""
    return {
        "reporter": "source",
        **_own("source"),
        "source_principal": _or_unknown("UPSTREAM_LOCAL_URI_SAN"),
        "source_cluster": CLUSTER_ID,
        **{
            f"destination_{label}": _or_unknown("UPSTREAM_METADATA", fact)
            for fact, label in _FACT_LABELS.items()
        },
        "destination_principal": _or_unknown("UPSTREAM_PEER_URI_SAN"),
        "destination_cluster": _or_unknown("UPSTREAM_METADATA", CLUSTER),
        **_service(),
        # Istio's: a client does not say what the server's proxy makes of it.
        "connection_security_policy": UNKNOWN,
    }


def server_labels(*, is_mtls: bool) -> Labels:
    """Of whom a proxy takes connections from, for its own app."""
    return {
        "reporter": "destination",
        **{
            f"source_{label}": _peer(fact) if is_mtls else UNKNOWN
            for fact, label in _FACT_LABELS.items()
        },
        "source_principal": "%DOWNSTREAM_PEER_URI_SAN%" if is_mtls else UNKNOWN,
        "source_cluster": CLUSTER_ID if is_mtls else UNKNOWN,
        **_own("destination"),
        "destination_principal": "%DOWNSTREAM_LOCAL_URI_SAN%" if is_mtls else UNKNOWN,
        "destination_cluster": CLUSTER_ID,
        **_service(),
        "connection_security_policy": "mutual_tls" if is_mtls else "none",
    }


HTTP_LABELS: Labels = {
    # The number alone, and nothing for what is no gRPC (Istio).
    "grpc_response_status": "%GRPC_STATUS_NUMBER%",
    "request_protocol": "%REQ(CONTENT-TYPE)%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
}
TCP_LABELS: Labels = {
    "request_protocol": "tcp",
    "response_flags": "%RESPONSE_FLAGS%",
}


def _own(side: str) -> Labels:
    return {
        f"{side}_{_FACT_LABELS[fact.name]}": f"%ENVIRONMENT({getattr(_ENVIRONMENT, fact.name)})%"
        for fact in fields(Facts)
    }


def _service() -> Labels:
    return {
        "destination_service": _or_unknown("CLUSTER_METADATA", HOST),
        "destination_service_name": _or_unknown("CLUSTER_METADATA", SERVICE),
        "destination_service_namespace": _or_unknown(
            "CLUSTER_METADATA", SERVICE_NAMESPACE
        ),
    }


def _peer(fact: str) -> str:
    return f"%FILTER_STATE({peer_key(fact)}:PLAIN)%"


def _or_unknown(command: str, key: str = "") -> str:
    # Nothing would be an empty label, which to Prometheus is none. Envoy has no text in this place
    # but that of the environment.
    operator = {"command": command} | ({"param": f"{METADATA}:{key}"} if key else {})
    default = {"command": "ENVIRONMENT", "param": ENV_UNKNOWN}
    text = json.dumps({"operators": [operator, default]}, separators=(",", ":"))
    return f"%COALESCE({text})%"
