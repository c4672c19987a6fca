"""What of Envoy's config dump is kept, and the bootstrap that is made of it: pure.

Invariants: what is kept is what Envoy says it uses, or nothing. Private keys are kept as they came,
sealed with a password that follows from the token of this run of the pod, which is not kept.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import time
from typing import Any

Json = dict[str, Any]

SEAL_PURPOSE = b"dockermesh: private keys in a kept configuration"
SEALED_KEY = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
MARK = "dockermesh-kept"
"""A cluster without endpoints, whose statistics tell that Envoy runs on what was kept."""
_REDACTED = ("[redacted]", base64.b64encode(b"[redacted]").decode())
_SDS_FIELDS = (
    "tls_certificate_sds_secret_configs",
    "validation_context_sds_secret_config",
)
_HTTP = "http_connection_manager.v3.HttpConnectionManager"


class NotKept(Exception):
    """What Envoy uses cannot be kept."""


# what is kept
# --------------------------------------------------------------------------------------------------


def kept_resources(dump: Json) -> Json:
    """Listeners, clusters and secrets out of Envoy's `/config_dump?include_eds`, with nothing left
    in them that would come over xDS. Raises NotKept.
    """
    sections = {
        str(part.get("@type", "")).rpartition(".")[2]: part for part in dump["configs"]
    }

    def entries(section: str, field: str) -> list[Json]:
        return list(sections.get(section, {}).get(field, ()))

    tables = {
        entry["route_config"]["name"]: _bare(entry["route_config"])
        for entry in entries("RoutesConfigDump", "dynamic_route_configs")
        if "route_config" in entry
    }
    assignments = {
        entry["endpoint_config"]["cluster_name"]: _bare(entry["endpoint_config"])
        for entry in entries("EndpointsConfigDump", "dynamic_endpoint_configs")
    }
    extensions = {
        entry["ecds_filter"]["name"]: entry["ecds_filter"]["typed_config"]
        for entry in entries("EcdsConfigDump", "ecds_filters")
        if "typed_config" in entry.get("ecds_filter", {})
    }
    listeners = [
        _bare(entry["active_state"]["listener"])
        for entry in entries("ListenersConfigDump", "dynamic_listeners")
        if "listener" in entry.get("active_state", {})
    ]
    clusters = [
        _bare(entry["cluster"])
        for entry in entries("ClustersConfigDump", "dynamic_active_clusters")
    ]
    secrets = [
        _bare(entry["secret"])
        for entry in entries("SecretsConfigDump", "dynamic_active_secrets")
        if entry.get("version_info") and "secret" in entry
    ]

    kept = {
        "listeners": [
            _static(_with_extensions(listener, extensions), tables)
            for listener in listeners
        ],
        "clusters": [
            _static(_with_endpoints(cluster, assignments), tables)
            for cluster in clusters
        ],
        "secrets": [_sealed(secret) for secret in secrets],
    }
    for kind, resources in kept.items():
        for resource in resources:
            if _is_redacted(resource):
                raise NotKept(
                    f"{kind} {resource.get('name')}: Envoy does not show a secret in it"
                )
    return kept


def _with_extensions(value: Any, extensions: dict[str, Json]) -> Any:
    """The same with filters in the place of references; the default where Envoy has none."""
    if isinstance(value, list):
        return [_with_extensions(item, extensions) for item in value]
    if not isinstance(value, dict):
        return value

    made = {key: _with_extensions(item, extensions) for key, item in value.items()}
    discovery = made.pop("config_discovery", None)
    if discovery is not None:
        made["typed_config"] = extensions.get(
            made.get("name", ""), discovery.get("default_config")
        )
        if made["typed_config"] is None:
            raise NotKept(f"Envoy has no filter {made.get('name')}")
    return made


def _bare(message: Json) -> Json:
    """A message out of an `Any`."""
    return {key: value for key, value in message.items() if key != "@type"}


def _static(value: Any, tables: dict[str, Json]) -> Any:
    """The same with route tables in the place of references; those to secrets are named alone."""
    if isinstance(value, list):
        return [_static(item, tables) for item in value]
    if not isinstance(value, dict):
        return value

    is_http = str(value.get("@type", "")).endswith(_HTTP)
    made: Json = {}
    for key, item in value.items():
        if key == "rds" and is_http:
            name = item["route_config_name"]
            table = _static(tables.get(name, {"name": name}), tables)
            # As over xDS, where a route may be there before its cluster.
            made["route_config"] = table | {"validate_clusters": False}
        elif key == "route_config" and is_http:
            made[key] = _static(item, tables) | {"validate_clusters": False}
        elif key in _SDS_FIELDS:
            made[key] = (
                [_by_name(one) for one in item]
                if isinstance(item, list)
                else _by_name(item)
            )
        else:
            made[key] = _static(item, tables)
    return made


def _by_name(reference: Json) -> Json:
    """A secret that the control plane sends is among the static ones; a file's stays a file's."""
    is_sent = "ads" in reference.get("sds_config", {})
    return {"name": reference["name"]} if is_sent else reference


def _with_endpoints(cluster: Json, assignments: dict[str, Json]) -> Json:
    if cluster.get("type") != "EDS":
        return cluster
    name = cluster["name"]
    asked = cluster.get("eds_cluster_config", {}).get("service_name") or name
    found = assignments.get(name) or assignments.get(asked) or {}
    rest = {key: item for key, item in cluster.items() if key != "eds_cluster_config"}
    endpoints = [_locality(one) for one in found.get("endpoints", ())]
    assignment = found | {"cluster_name": name, "endpoints": endpoints}
    return rest | {"type": "STATIC", "load_assignment": assignment}


def _locality(endpoints: Json) -> Json:
    """The dump has 0 where no weight is set, which is not allowed to be set."""
    return {
        key: item
        for key, item in endpoints.items()
        if key != "load_balancing_weight" or item
    }


def _sealed(secret: Json) -> Json:
    """A secret with its private key where the control plane put it: sealed, behind the
    certificates.
    """
    pair = secret.get("tls_certificate")
    if pair is None:
        return secret
    chain = pair.get("certificate_chain", {})
    if "filename" in chain:
        # Its name says where the files are; the dump hides the second.
        key = str(secret["name"]).partition("~")[2]
        if not key:
            raise NotKept(f"secrets {secret['name']}: the file of its key is not known")
        return secret | {"tls_certificate": pair | {"private_key": {"filename": key}}}

    if SEALED_KEY not in base64.b64decode(chain.get("inline_bytes", "")):
        raise NotKept(
            f"secrets {secret['name']}: the control plane did not seal its key"
        )
    return secret | {"tls_certificate": pair | {"private_key": chain}}


def _is_redacted(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_redacted, value))
    if isinstance(value, dict):
        return any(map(_is_redacted, value.values()))
    return value in _REDACTED


# what Envoy is started with
# --------------------------------------------------------------------------------------------------


def password_of(token: str) -> str:
    """What keys are sealed with that are sent to the proxy with this token."""
    return hmac.new(token.encode(), SEAL_PURPOSE, hashlib.sha256).hexdigest()


def token_of(bootstrap: Json) -> str:
    """The token with which this Envoy would show itself."""
    service = bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0]
    return str(service["initial_metadata"][0]["value"]).removeprefix("Bearer ")


def run_of(bootstrap: Json) -> str:
    """Tells one run of a pod from another."""
    return hashlib.sha256(token_of(bootstrap).encode()).hexdigest()


def kept_bootstrap(bootstrap: Json, kept: Json, nothing: str) -> Json:
    """A bootstrap with `kept`, and none of xDS. `nothing` is a file of SDS that has no secret."""
    password = password_of(token_of(bootstrap))
    own = bootstrap["static_resources"]
    services = bootstrap["dynamic_resources"]["ads_config"]["grpc_services"]
    upstream = services[0]["envoy_grpc"]["cluster_name"]
    clusters = [cluster for cluster in own["clusters"] if cluster["name"] != upstream]
    known = {secret["name"] for secret in kept["secrets"]}
    rest = {key: item for key, item in bootstrap.items() if key != "dynamic_resources"}

    return rest | {
        "static_resources": {
            "listeners": own["listeners"] + _found(kept["listeners"], known, nothing),
            "clusters": [
                *clusters,
                {"name": MARK, "type": "STATIC"},
                *_found(kept["clusters"], known, nothing),
            ],
            "secrets": [_opened(secret, password) for secret in kept["secrets"]],
        }
    }


def _found(value: Any, known: set[str], nothing: str) -> Any:
    """References to secrets that nobody has wait in vain, as they did when they were kept."""
    if isinstance(value, list):
        return [_found(item, known, nothing) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _found(item, known, nothing) for key, item in value.items()}
    for key in _SDS_FIELDS:
        if key in made:
            made[key] = (
                [_supplied(one, known, nothing) for one in made[key]]
                if isinstance(made[key], list)
                else _supplied(made[key], known, nothing)
            )
    return made


def _supplied(reference: Json, known: set[str], nothing: str) -> Json:
    if "sds_config" in reference or reference["name"] in known:
        return reference
    source = {"path_config_source": {"path": nothing}, "resource_api_version": "V3"}
    return reference | {"sds_config": source}


def _opened(secret: Json, password: str) -> Json:
    pair = secret.get("tls_certificate", {})
    if "inline_bytes" not in pair.get("private_key", {}):
        return secret
    return secret | {
        "tls_certificate": pair | {"password": {"inline_string": password}}
    }


def probe_bootstrap(bootstrap: Json, admin: str) -> Json:
    """A bootstrap that is ready once the control plane has served it."""
    own = bootstrap["static_resources"]
    dynamic = {
        key: item
        for key, item in bootstrap["dynamic_resources"].items()
        if key != "lds_config"
    }
    return bootstrap | {
        "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
        "dynamic_resources": dynamic,
        "static_resources": {"clusters": own["clusters"]},
    }


def first_expiry(certificates: Json) -> tuple[int, str]:
    """When the first of the proxy's own certificates expires (seconds since the epoch; 0: never),
    and whose it is; out of `/certs`.
    """
    found = []
    for entry in certificates.get("certificates", ()):
        for one in entry.get("cert_chain", ())[:1]:
            names = [str(v) for san in one["subject_alt_names"] for v in san.values()]
            until = time.strptime(one["expiration_time"], "%Y-%m-%dT%H:%M:%SZ")
            found.append((calendar.timegm(until), " ".join(names) or one["path"]))
    return min(found, default=(0, ""))
