"""The running mesh as `analyze` sees it: its resources through the config API, services and
workloads as the control plane's debug pages show them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dockermesh.client.mesh.api_client import ApiClient, find_endpoint, path_of
from dockermesh.client.mesh.mesh_client import ApiError, MeshClient
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import NotReadyError
from dockermesh.kubeapi.served import NAMESPACE, SECRET, SERVED
from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    Refusal,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.model.protocol import Protocol, parse_protocol

_FORBIDDEN = 403
UNTOLD = "untold"
"""Instead of a token's digest, which no page shows."""


def live_resources(environ: Mapping[str, str]) -> tuple[list[tuple[str, str]], bool]:
    """Every stored resource, each as a source without a file name, and whether Secrets are among
    them: who needs no token is shown none.

    Raises NotReadyError when the mesh does not run.
    """
    client = ApiClient(find_endpoint(environ))
    found = []
    with_secrets = True

    for served in SERVED:
        if served is NAMESPACE:
            continue
        try:
            answer = client.find(path_of(served, ""))
        except ApiError as error:
            if served is not SECRET or error.code != _FORBIDDEN:
                raise
            with_secrets = False
            continue

        for item in answer.get("items", ()) if isinstance(answer, dict) else ():
            item.pop("status", None)
            document = {
                "apiVersion": served.api_version(served.versions[0]),
                "kind": served.kind,
                **item,
            }
            found.append(("", json.dumps(document)))

    return found, with_secrets


def live_starts(kinds: Iterable[str]) -> tuple[dict[str, Any], ...]:
    """The stored resources of these kinds of the mesh on this host's engine; none where none runs.

    Raises NotReadyError when it runs and does not answer.
    """
    try:
        endpoint = find_endpoint({})
    except NotReadyError:
        return ()
    client = ApiClient(endpoint)
    listed = (s for s in SERVED if s.kind in kinds)
    return tuple(
        {"apiVersion": s.api_version(s.versions[0]), "kind": s.kind, **item}
        for s in listed
        for item in (client.find(path_of(s, "")) or {}).get("items", ())
    )


def live_catalog() -> tuple[Catalog, list[Refusal]]:
    """The services and workloads of the mesh on this host, and the registrations that it refuses.

    Raises NotReadyError when the mesh does not run.
    """
    client = MeshClient(LocalEngine())
    report = client.workloads()
    refused = [Refusal.from_dict(entry) for entry in report.get("refused", ())]
    return reported_catalog(client.services(), report["workloads"]), refused


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
        # A control plane of before does not say these.
        published=tuple(entry.get("published") or ()),
        protocol_rules={
            str(port["port"]): port["protocol_rule"]
            for port in entry["ports"]
            if port.get("protocol_rule")
        },
        token_sha256="" if entry.get("xds") == "NOT CONNECTED" else UNTOLD,
    )
