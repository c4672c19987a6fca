"""A bootstrap that needs no control plane: everything that would come over xDS is in it.

Invariant: what refers to a resource by name refers to it by name still, wherever Envoy allows that (secrets); else the
resource is put in its place (routes, endpoints).
"""

from __future__ import annotations

from typing import Any

_TLS_FIELDS = frozenset({"tlsCertificateSdsSecretConfigs", "validationContextSdsSecretConfig"})


def static_bootstrap(parts: dict[str, list[dict[str, Any]]], node: str) -> dict[str, Any]:
    """The bootstrap of a proxy with these listeners, routes, clusters, endpoints and secrets."""
    tables = {table["name"]: table for table in parts["routes"]}
    assignments = {a["clusterName"]: a for a in parts["endpoints"]}
    return {
        "node": {"id": node, "cluster": node},
        "admin": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": 15000}}},
        "staticResources": {
            "listeners": [_inline(listener, tables) for listener in parts["listeners"]],
            "clusters": [_inline(_with_endpoints(cluster, assignments), tables) for cluster in parts["clusters"]],
            "secrets": parts["secrets"],
        },
    }


def _with_endpoints(cluster: dict[str, Any], assignments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if cluster.get("type") != "EDS":
        return cluster
    name = cluster["name"]
    found = assignments.get(cluster["edsClusterConfig"].get("serviceName", name), {})
    rest = {key: value for key, value in cluster.items() if key != "edsClusterConfig"}
    return {**rest, "type": "STATIC", "loadAssignment": {**found, "clusterName": name}}


def _inline(value: Any, tables: dict[str, dict[str, Any]]) -> Any:
    """The value with route tables in the place of references, and secrets looked up in the bootstrap."""
    if isinstance(value, list):
        return [_inline(item, tables) for item in value]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for key, item in value.items():
        if key == "rds":
            name = item["routeConfigName"]
            made["routeConfig"] = tables.get(name, {"name": name})
        elif key in _TLS_FIELDS:
            made[key] = [_named(entry) for entry in item] if isinstance(item, list) else _named(item)
        else:
            made[key] = _inline(item, tables)
    return made


def _named(reference: dict[str, Any]) -> dict[str, Any]:
    return {"name": reference["name"]}
