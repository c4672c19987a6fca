"""A bootstrap that needs no control plane: everything that would come over xDS is in it.

There are no certificates of the mesh without a control plane: what could only be had with them is
left out, so that TLS of the mesh is neither taken nor offered.

Invariant: what refers to a resource by name refers to it by name still, wherever Envoy allows that
(secrets); else the resource is put in its place (routes, endpoints).
"""

from __future__ import annotations

from typing import Any

from dockermesh.model.contract import ADMIN_PORT

_DISCOVERY = frozenset(
    {"type", "edsClusterConfig", "loadAssignment", "lbPolicy", "originalDstLbConfig"}
)
_TLS_FIELDS = frozenset(
    {"tlsCertificateSdsSecretConfigs", "validationContextSdsSecretConfig"}
)


def static_bootstrap(
    parts: dict[str, list[dict[str, Any]]], node: str
) -> dict[str, Any]:
    """The bootstrap of a proxy with these listeners, routes, clusters, endpoints and secrets."""
    known = {secret["name"] for secret in parts["secrets"]}
    usable = (_usable_listener(listener, known) for listener in parts["listeners"])
    listeners = [listener for listener in usable if listener is not None]
    clusters = [_usable_cluster(cluster, known) for cluster in parts["clusters"]]
    tables = {table["name"]: table for table in parts["routes"]}
    assignments = {a["clusterName"]: a for a in parts["endpoints"]}

    return {
        "node": {"id": node, "cluster": node},
        "admin": {
            "address": {
                "socketAddress": {"address": "127.0.0.1", "portValue": ADMIN_PORT}
            }
        },
        "staticResources": {
            "listeners": [_inline(listener, tables) for listener in listeners],
            "clusters": [
                _inline(_with_endpoints(cluster, assignments), tables)
                for cluster in clusters
            ],
            "secrets": parts["secrets"],
        },
    }


def _usable_listener(
    listener: dict[str, Any], known: set[str]
) -> dict[str, Any] | None:
    """The listener with what needs no other secrets; None if nothing is left of it."""
    if not listener.get("filterChains"):
        return listener
    chains = [
        c
        for c in listener.get("filterChains", ())
        if _secrets(c.get("transportSocket")) <= known
    ]
    return {**listener, "filterChains": chains} if chains else None


def _usable_cluster(cluster: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The cluster without TLS of the mesh where it is optional; where it is not, there is nobody to
    connect to.
    """
    made = dict(cluster)
    if "transportSocketMatches" in made:
        matches = [
            m
            for m in made["transportSocketMatches"]
            if _secrets(m["transportSocket"]) <= known
        ]
        made["transportSocketMatches"] = matches

    if not _secrets(made.get("transportSocket")) <= known:
        del made["transportSocket"]
        kept = {key: value for key, value in made.items() if key not in _DISCOVERY}
        made = {
            **kept,
            "type": "STATIC",
            "loadAssignment": {"clusterName": made["name"]},
        }

    return made


def _secrets(value: Any) -> set[str]:
    """The secrets that a part of a resource refers to."""
    if isinstance(value, list):
        return set().union(*map(_secrets, value))
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(_secrets, value.values()))
    for key in _TLS_FIELDS & value.keys():
        entries = value[key] if isinstance(value[key], list) else [value[key]]
        found.update(entry["name"] for entry in entries)
    return found


def _with_endpoints(
    cluster: dict[str, Any], assignments: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    if cluster.get("type") != "EDS":
        return cluster
    name = cluster["name"]
    found = assignments.get(cluster["edsClusterConfig"].get("serviceName", name), {})
    rest = {key: value for key, value in cluster.items() if key != "edsClusterConfig"}
    return {**rest, "type": "STATIC", "loadAssignment": {**found, "clusterName": name}}


def _inline(value: Any, tables: dict[str, dict[str, Any]]) -> Any:
    """The value with route tables in the place of references, and secrets looked up in the
    bootstrap.
    """
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
            made[key] = (
                [_named(entry) for entry in item]
                if isinstance(item, list)
                else _named(item)
            )
        else:
            made[key] = _inline(item, tables)

    return made


def _named(reference: dict[str, Any]) -> dict[str, Any]:
    return {"name": reference["name"]}
