"""The running mesh as `analyze` sees it: its resources through the config API, services and
workloads as the control plane's debug pages show them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dockermesh.client.mesh.api_client import ApiClient, find_endpoint, path_of
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.engine import LocalEngine
from dockermesh.kubeapi.served import SERVED
from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.model.protocol import Protocol, parse_protocol


def live_resources(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every stored resource, each as a source without a file name.

    Raises NotReadyError when the mesh does not run.
    """
    client = ApiClient(find_endpoint(environ))
    found = []

    for served in SERVED:
        if served.definition is None:
            continue
        answer = client.find(path_of(served, ""))

        for item in answer.get("items", ()) if isinstance(answer, dict) else ():
            item.pop("status", None)
            document = {
                "apiVersion": served.api_version(served.versions[0]),
                "kind": served.kind,
                **item,
            }
            found.append(("", json.dumps(document)))

    return found


def live_catalog() -> Catalog:
    """The services and workloads of the mesh on this host.

    Raises NotReadyError when the mesh does not run.
    """
    client = MeshClient(LocalEngine())
    return reported_catalog(client.services(), client.workloads()["workloads"])


def reported_catalog(
    services: Iterable[Mapping[str, Any]], workloads: Iterable[Mapping[str, Any]]
) -> Catalog:
    """The catalog that `/debug/registryz` and `/debug/workloads` tell of, as far as they do."""
    known = [_service(entry) for entry in services]
    found = [_workload(entry) for entry in workloads]
    return Catalog(
        services={s.hostname: s for s in known}, workloads={w.name: w for w in found}
    )


def _service(entry: Mapping[str, Any]) -> Service:
    ports = [
        Port(p["number"], parse_protocol(p["protocol"]) or Protocol.AUTO)
        for p in entry["ports"]
    ]
    return Service(
        name=entry.get("name") or entry["hostname"].partition(".")[0],
        hostname=entry["hostname"],
        namespace=entry.get("namespace") or "default",
        aliases=tuple(entry.get("aliases") or ()),
        ports=tuple(ports),
        endpoints=tuple(
            Endpoint(
                e["address"],
                e["port"],
                labels=e["labels"],
                health=Health(e["health"]),
                workload=e["workload"],
            )
            for e in entry["endpoints"]
        ),
    )


def _workload(entry: Mapping[str, Any]) -> Workload:
    return Workload(
        id=entry["pod"],
        name=entry["name"],
        service=entry["service"],
        kind=WorkloadKind(entry["kind"]),
        namespace=entry["namespace"],
        service_account=entry["service_account"],
        address=entry["address"],
        labels=entry["labels"],
    )
