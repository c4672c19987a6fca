"""Envoy's config dump, taken apart.

Invariant: secrets do not get past `read_dump`: private keys and the token of the xDS stream are
replaced before anybody can print them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.errors import InputError

Json = dict[str, Any]
REDACTED = "[redacted]"
_PRIVATE = frozenset(
    {
        "private_key",
        "private_key_provider",
        "session_ticket_keys",
        "generic_secret",
        "password",
    }
)
_KEY = re.compile(
    rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----\n?", re.DOTALL
)
_OPAQUE = frozenset(
    {"filter_metadata", "static_layer", "runtime_layer", "layer_values"}
)
"""Fields whose keys are the user's, not Envoy's."""


@dataclass(frozen=True, slots=True)
class Dump:
    """The sections of a config dump by the last part of their type: `ClustersConfigDump` and so
    on.
    """

    sections: Mapping[str, Json]

    def clusters(self) -> list[Json]:
        """Active clusters, dynamic ones first."""
        return [
            *self.dynamic_clusters(),
            *self._of("ClustersConfigDump", "static_clusters", "cluster"),
        ]

    def dynamic_clusters(self) -> list[Json]:
        """Active clusters that came by CDS."""
        return list(
            self._of("ClustersConfigDump", "dynamic_active_clusters", "cluster")
        )

    def warming_clusters(self) -> list[str]:
        """The names of clusters that came by CDS and wait for names, certificates or endpoints."""
        return [
            str(c.get("name", ""))
            for c in self._of(
                "ClustersConfigDump", "dynamic_warming_clusters", "cluster"
            )
        ]

    def listeners(self) -> list[Json]:
        """Active listeners, dynamic ones first."""
        return [
            *self.dynamic_listeners(),
            *self._of("ListenersConfigDump", "static_listeners", "listener"),
        ]

    def dynamic_listeners(self) -> list[Json]:
        """Active listeners that came by LDS."""
        section = self.sections.get("ListenersConfigDump", {})
        states = (
            entry.get("active_state", {})
            for entry in section.get("dynamic_listeners", ())
        )
        return [state["listener"] for state in states if "listener" in state]

    def routes(self) -> list[Json]:
        """Route tables, those of RDS first; then those inside listeners."""
        return [
            *self.dynamic_routes(),
            *self._of("RoutesConfigDump", "static_route_configs", "route_config"),
        ]

    def dynamic_routes(self) -> list[Json]:
        """Route tables that came by RDS."""
        return list(
            self._of("RoutesConfigDump", "dynamic_route_configs", "route_config")
        )

    def routes_loaded_at(self) -> str:
        """When the newest route table came, in RFC 3339; empty if none did."""
        entries = self.sections.get("RoutesConfigDump", {}).get(
            "dynamic_route_configs", ()
        )
        return max(
            (str(entry.get("last_updated", "")) for entry in entries), default=""
        )

    def endpoints(self) -> list[Json]:
        """The endpoints of every cluster, where the dump has them (`/config_dump?include_eds`)."""
        kinds = ("dynamic_endpoint_configs", "static_endpoint_configs")
        return [
            item
            for kind in kinds
            for item in self._of("EndpointsConfigDump", kind, "endpoint_config")
        ]

    def secrets(self) -> Iterator[tuple[str, Json]]:
        """Secrets with their state."""
        section = self.sections.get("SecretsConfigDump", {})
        for field, state in (
            ("dynamic_active_secrets", "ACTIVE"),
            ("static_secrets", "ACTIVE"),
            ("dynamic_warming_secrets", "WARMING"),
        ):
            for entry in section.get(field, ()):
                yield state, entry.get("secret", {}) | {"name": entry.get("name", "")}

    def bootstrap(self) -> Json:
        """What Envoy was started with."""
        return dict(self.sections.get("BootstrapConfigDump", {}).get("bootstrap", {}))

    def _of(self, section: str, field: str, part: str) -> Iterator[Json]:
        return (
            entry[part]
            for entry in self.sections.get(section, {}).get(field, ())
            if part in entry
        )


def read_dump(content: bytes, where: str) -> Dump:
    """The dump in Envoy's answer, or in a file of it. Raises InputError if it is none."""
    found = read_json(content, where)
    configs = found.get("configs")

    if not isinstance(configs, list):
        raise InputError(
            "this is no config dump: it has no `configs`",
            where=where,
            fix="save Envoy's /config_dump",
        )

    named = (
        (str(config.get("@type", "")), config)
        for config in configs
        if isinstance(config, dict)
    )
    return Dump({kind.rpartition(".")[2]: config for kind, config in named})


def read_json(content: bytes, where: str) -> Json:
    """A JSON object without its secrets, with Envoy's own field names. Raises InputError."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"not JSON: {error}",
            where=where,
            fix="give a page of Envoy's admin, saved as it is",
        ) from None

    if not isinstance(found, dict):
        raise InputError(
            "not a JSON object",
            where=where,
            fix="give a page of Envoy's admin, saved as it is",
        )

    cleaned: Json = _without_secrets(found)
    return cleaned


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    # The token stands in the bootstrap, as metadata of the xDS stream.
    if str(value.get("key", "")).lower() == "authorization" and "value" in value:
        return value | {"value": REDACTED}
    return {
        key: REDACTED
        if key in _PRIVATE
        else _without_keys(item)
        if key == "certificate_chain"
        else _without_secrets(item)
        for key, item in value.items()
    }


def _without_keys(source: Any) -> Any:
    """A chain without the sealed key that is behind it: see `ca.sealed_key`."""
    content = source.get("inline_bytes") if isinstance(source, dict) else None
    if not isinstance(content, str):
        return source
    try:
        text = base64.b64decode(content)
    except ValueError:
        return source
    return source | {"inline_bytes": base64.b64encode(_KEY.sub(b"", text)).decode()}


def public_names(value: Any) -> Any:
    """The same JSON with protobuf's JSON names (`virtualHosts`), as istioctl prints it."""
    if isinstance(value, list):
        return [public_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        _camel(key): item
        if key in _OPAQUE or (key == "metadata" and "filter_metadata" not in item)
        else public_names(item)
        for key, item in value.items()
    }


def _camel(key: str) -> str:
    # Keys with other characters are not names of fields: types of extensions, names of clusters.
    if not key.replace("_", "").isalnum() or "_" not in key:
        return key
    first, *rest = key.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)
