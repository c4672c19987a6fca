"""What a proxy would have, from files alone: the translation of the control plane without any of
its I/O.

The listeners of its bootstrap are shown as well, as Envoy shows them: they are open before it is
told anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, json_format

from dockermesh.client.compose.mesh_files import bootstrap_resources
from dockermesh.client.offline.catalog_file import (
    read_catalog,
    read_proxy,
    workload_proxy,
)
from dockermesh.client.offline.static_bootstrap import static_bootstrap
from dockermesh.config.documents import read_text
from dockermesh.config.files import resource_files
from dockermesh.config.findings import Finding
from dockermesh.config.resource import Resource
from dockermesh.errors import InputError
from dockermesh.model import EMPTY_CATALOG
from dockermesh.model.contract import DEFAULT_SERVICE_DOMAIN
from dockermesh.translate.envoy.names import DNS_LISTENER
from dockermesh.translate.mesh.settings import IstioConfig, MeshSettings, istio_config
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds.resources import CLUSTER, LISTENER
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_MAPS = frozenset(
    {"policies", "providers", "filterMetadata", "typedPerFilterConfig", "fields"}
)
_PARTS = ("listeners", "routes", "clusters", "endpoints")


def read_config(paths: Iterable[Path]) -> tuple[IstioConfig, list[Finding]]:
    """The valid resources of files and folders, and all findings.

    Raises InputError if a path cannot be read.
    """
    resources: list[Resource[Any]] = []
    findings: list[Finding] = []

    for path in paths:
        for file in resource_files(path):
            try:
                reading = read_text(file.read_bytes(), str(file))
            except OSError as error:
                raise InputError(
                    f"cannot be read: {error.strerror}",
                    where=str(file),
                    fix="check the path",
                ) from None

            resources.extend(reading.resources)
            findings.extend(reading.findings)

    return istio_config(resources), findings


def render(
    config: IstioConfig,
    *,
    catalog: Path | None,
    workload: str,
    proxy: Path | None,
    is_static: bool,
    domain: str = DEFAULT_SERVICE_DOMAIN,
) -> tuple[dict[str, Any], list[str]]:
    """The resources of one proxy by type, in proto JSON, or a bootstrap that holds them; and what
    had to be left out.

    `domain` ends the host names of the catalog's services.

    Of the first kind those that stand in every proxy's bootstrap come last.

    Raises InputError if the catalog or the proxy cannot be used.
    """
    known = read_catalog(catalog, domain) if catalog is not None else EMPTY_CATALOG
    who = read_proxy(proxy) if proxy is not None else workload_proxy(known, workload)
    if is_static:
        who = replace(who, has_certificate=False)
    translator = Translator()
    settings = MeshSettings(service_domain=domain)
    translator.update(build_mesh(known, config=config, settings=settings))
    snapshot = translator.snapshot(who)
    parts, problems = snapshot_parts(snapshot), sorted(translator.problems().values())
    if is_static:
        return static_bootstrap(parts, who.id), problems

    # Tools for Istio's dumps know no UDP listeners: Istio's agent answers DNS, not its Envoy.
    shown = {name: parts[name] for name in _PARTS}
    told = [
        listener for listener in parts["listeners"] if listener["name"] != DNS_LISTENER
    ]
    own = bootstrap_resources()
    shown["listeners"] = [
        *told,
        *(_canonical(LISTENER, item) for item in own["listeners"]),
    ]
    shown["clusters"] = [
        *parts["clusters"],
        *(_canonical(CLUSTER, item) for item in own["clusters"]),
    ]

    return shown, problems


def snapshot_parts(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """The resources of a snapshot by type, in proto JSON, each type in the order of names."""
    return {name: _messages(getattr(snapshot, name)) for name in (*_PARTS, "secrets")}


def _messages(resources: ResourceSet) -> list[dict[str, Any]]:
    listed = sorted(resources.values(), key=lambda r: r.name)
    return [_shown(any_pb2.Any.FromString(r.any_bytes)) for r in listed]


def _canonical(type_url: str, message: dict[str, Any]) -> dict[str, Any]:
    """A message that may have the protos' field names, with those of JSON."""
    return _shown(json_format.ParseDict({"@type": type_url, **message}, any_pb2.Any()))


def _shown(packed: any_pb2.Any) -> dict[str, Any]:
    message = json_format.MessageToDict(packed)
    return {key: _ordered(value) for key, value in message.items() if key != "@type"}


def _ordered(value: Any) -> Any:
    """The value with the entries of maps by their names: protobuf has them in no order."""
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = ((key, _ordered(item)) for key, item in value.items())
    return {
        k: dict(sorted(v.items())) if k in _MAPS and isinstance(v, dict) else v
        for k, v in made
    }
