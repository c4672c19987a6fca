"""What the control plane would send to a proxy, in the form of Envoy's own config dump, so that
both can be compared.

Secrets are left out: nobody compares them, and nobody is to read them here.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, json_format

from dockermesh.xds.snapshot import ResourceSet, Snapshot

_ADMIN = "type.googleapis.com/envoy.admin.v3."


def config_dump(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as JSON of `envoy.admin.v3.ConfigDump`, each type by name."""
    listeners = [
        {"name": m["name"], "active_state": {"listener": m}}
        for m in messages(snapshot.listeners)
    ]

    return {
        "configs": [
            _section(
                "Clusters",
                "dynamic_active_clusters",
                [{"cluster": m} for m in messages(snapshot.clusters)],
            ),
            _section(
                "Endpoints",
                "dynamic_endpoint_configs",
                _wrapped("endpoint_config", snapshot.endpoints),
            ),
            _section("Listeners", "dynamic_listeners", listeners),
            _section(
                "Routes",
                "dynamic_route_configs",
                _wrapped("route_config", snapshot.routes),
            ),
        ]
    }


def _section(kind: str, field: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": f"{_ADMIN}{kind}ConfigDump", field: entries}


def _wrapped(part: str, resources: ResourceSet) -> list[dict[str, Any]]:
    return [{part: message} for message in messages(resources)]


def messages(resources: ResourceSet) -> list[dict[str, Any]]:
    """The resources in proto JSON with the field names of the protos, by name."""
    listed = sorted(resources.values(), key=lambda r: r.name)
    return [
        _plain(
            # Envoy's own dump has the names of the protos, not those of JSON.
            json_format.MessageToDict(
                _any(r.any_bytes), preserving_proto_field_name=True
            )
        )
        for r in listed
    ]


def _any(content: bytes) -> any_pb2.Any:
    return any_pb2.Any.FromString(content)


def _plain(value: Any) -> Any:
    """Packed structures come as a kind of dictionary that not every library knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
