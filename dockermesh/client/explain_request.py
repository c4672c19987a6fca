"""Where `dockermesh explain` gets its facts: files, or the running mesh; and what really happens to
the request.

Both go through the same translation: files here, a live mesh by the control plane's
`/debug/config_dump`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dockermesh.client.inspect.dump import Dump, Json, read_dump
from dockermesh.client.inspect.explain import WAYS_OUT, Rule, Source, Surroundings
from dockermesh.client.inspect.matching import Request
from dockermesh.client.inspect.node_parts import all_proxies
from dockermesh.client.inspect.proxies import LocalProxy, find_proxy
from dockermesh.client.inspect.tables import origin_of
from dockermesh.client.mesh.api_client import ApiClient
from dockermesh.client.mesh.live_mesh import reported_catalog
from dockermesh.client.mesh.mesh_client import ApiError, MeshClient
from dockermesh.client.offline.catalog_file import read_catalog, workload_proxy
from dockermesh.client.offline.render import read_config
from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.documents import read_document
from dockermesh.config.resource import Resource
from dockermesh.docker.admin import ProxyAdmin
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.sending import Sender
from dockermesh.errors import DockermeshError, EngineError, InputError, NotReadyError
from dockermesh.model import EMPTY_CATALOG, Catalog, Workload, WorkloadKind
from dockermesh.model.contract import DEFAULT_SERVICE_DOMAIN
from dockermesh.translate.envoy.origin import origin
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.routes.rule_lookup import find_rule
from dockermesh.translate.translator import Translator
from dockermesh.xds.config_dump import config_dump

_REFUSALS = {403, 503}
"""What a client sees of a target's refusal: by its policies, or of the connection."""
Lookup = Callable[[str], Resource[VirtualService] | None]
"""A VirtualService by its path in the API."""


# rules
# --------------------------------------------------------------------------------------------------


def rule_finder(lookup: Lookup) -> Callable[[Json], Rule | None]:
    """Where routes come from; the place within the resource where it can be told."""

    def rule_of(route: Json) -> Rule | None:
        path = origin_of(route)
        if not path:
            return None

        resource = lookup(path)
        if resource is None:
            *_, namespace, kind, name = path.split("/")
            return Rule(f"{kind.title().replace('-', '')} {namespace}/{name}")

        found = find_rule(resource, route)
        if found is None:
            return Rule(str(resource), at=str(resource.location))

        number, position = found
        place: tuple[str | int, ...] = ("spec", "http", number)
        if resource.spec.http[number].match:
            place = (*place, "match", position)
        text = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in place
        )

        return Rule(
            str(resource), text.removeprefix("."), str(resource.location_of(*place))
        )

    return rule_of


# files
# --------------------------------------------------------------------------------------------------


def from_files(
    name: str,
    configs: Iterable[Path],
    catalog: Path | None,
    domain: str = DEFAULT_SERVICE_DOMAIN,
) -> tuple[Source, Surroundings, list[str]]:
    """The source and what is known, from files; and what of them had to be left out. `domain` ends
    the host names of the catalog's services.

    Raises InputError if a file cannot be used, or the catalog has no such workload.
    """
    known = read_catalog(catalog, domain) if catalog is not None else EMPTY_CATALOG
    config, findings = read_config(configs)
    translator = Translator()
    settings = MeshSettings(service_domain=domain)
    mesh = build_mesh(known, config=config, settings=settings)
    translator.update(mesh)
    rules = {origin(resource): resource for resource in config.virtual_services}

    @cache
    def dump_of(workload: str) -> Dump | None:
        if workload not in known.workloads:
            return None
        return _dump(
            config_dump(translator.snapshot(workload_proxy(known, workload))), workload
        )

    chosen = find_proxy(name, _listed(known.workloads.values())).workload
    own = known.workloads[chosen]
    dump = _dump(
        config_dump(translator.snapshot(workload_proxy(known, chosen))), chosen
    )
    identities = _identities(known.workloads, mesh.settings.trust_domain)
    source = _source(own, dump, identities)
    problems = [str(f) for f in findings if f.is_error] + sorted(
        translator.problems().values()
    )

    return (
        source,
        Surroundings(
            rule_finder(rules.get), _workloads_at(known), identities, dump_of=dump_of
        ),
        problems,
    )


def _listed(workloads: Iterable[Workload]) -> list[LocalProxy]:
    return [LocalProxy(w.name, w.namespace, w.id) for w in workloads]


def _identities(workloads: Mapping[str, Workload], trust_domain: str) -> dict[str, str]:
    return {
        name: str(workload.identity(trust_domain))
        for name, workload in workloads.items()
    }


def _source(own: Workload, dump: Dump, identities: Mapping[str, str]) -> Source:
    return Source(
        own.name,
        dump,
        own.kind is WorkloadKind.GATEWAY,
        identities[own.name],
        own.address,
    )


def _workloads_at(catalog: Catalog) -> dict[str, str]:
    endpoints = (e for service in catalog.services.values() for e in service.endpoints)
    return {e.address: e.workload for e in endpoints if e.workload}


def _dump(made: dict[str, Any], where: str) -> Dump:
    return read_dump(json.dumps(made).encode(), where)


# the running mesh
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LiveMesh:
    """The running mesh, seen from a source's proxy on this host."""

    engine: LocalEngine
    proxy: LocalProxy
    source: Source
    known: Surroundings


def from_mesh(name: str, namespace: str, api: ApiClient) -> LiveMesh:
    """The source and what is known, from the control plane of this host.

    Raises InputError if no proxy of this host is meant, NotReadyError if the mesh does not run.
    """
    engine = LocalEngine()
    client = MeshClient(engine)
    report = client.workloads()
    proxy = find_proxy(name, all_proxies(engine), namespace)
    workloads = reported_catalog((), report["workloads"]).workloads
    own = workloads.get(proxy.workload)

    if own is None:
        raise NotReadyError(
            f"the control plane does not know {proxy.workload} yet",
            fix="see `dockermesh ps`",
        )

    @cache
    def dump_of(workload: str) -> Dump | None:
        if workload not in workloads:
            return None
        return read_dump(client.config_dump(workload), workload)

    @cache
    def lookup(path: str) -> Resource[VirtualService] | None:
        return _stored_rule(api, path)

    dump = read_dump(client.config_dump(proxy.workload), proxy.workload)
    at = {w.address: w.name for w in workloads.values() if w.address}
    identities = _identities(workloads, report["trust_domain"])
    rules = {w.name: w.protocol_rules for w in workloads.values()}
    source = _source(own, dump, identities)

    return LiveMesh(
        engine,
        proxy,
        source,
        Surroundings(rule_finder(lookup), at, identities, rules, dump_of),
    )


def _stored_rule(api: ApiClient, path: str) -> Resource[VirtualService] | None:
    # In metadata Istio writes the kind where the API has its plural.
    *start, _, name = path.split("/")
    try:
        document = api.find("/".join([*start, "virtualservices", name]))
    except ApiError:
        return None
    found = read_document(document).resources if document is not None else ()
    return next((r for r in found if isinstance(r.spec, VirtualService)), None)


# what really happens
# --------------------------------------------------------------------------------------------------


def try_out(
    mesh: LiveMesh, explanation: Json, request: Request, host: str, port: int
) -> Json:
    """Send the request from the source's network, and say whether what happens was foreseen.

    Which endpoint answered follows from the source proxy's own counters, so other requests at the
    same moment may be counted as well. Where nothing answers, `error` says why.
    """
    if mesh.proxy.is_part:
        raise InputError(
            "a request cannot be sent from a workload in node mode yet",
            where=mesh.proxy.workload,
            fix="leave out --live",
        )
    admin = ProxyAdmin(mesh.engine, mesh.proxy.pod)
    before = _requests(admin)
    headers = {
        "Host": request.authority,
        "User-Agent": "dockermesh-explain",
        **request.headers,
    }
    if mesh.source.is_gateway and explanation["listener"]:
        # The request is sent in the gateway's own network, where its listener has this port; the
        # one of the URL is published on the host.
        host, port = (
            "127.0.0.1",
            int(str(explanation["listener"]["address"]).rpartition(":")[2]),
        )

    try:
        answer = Sender(mesh.engine, mesh.proxy.pod).send(
            host, port, request.method, request.path, headers
        )
    except EngineError as error:
        return {"error": error.what, "as_explained": _may_stop_here(explanation)}

    after = _requests(admin)
    asked = sorted(key for key, number in after.items() if number > before.get(key, 0))
    foreseen = _foreseen(explanation, after)
    used = [
        {"cluster": cluster, "endpoint": address}
        for cluster, address in asked
        if (cluster, address) in foreseen
    ]

    return {
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "server": answer.headers.get("server", ""),
        "endpoints": used,
        "as_explained": agrees(explanation, answer.status, is_seen=bool(used)),
    }


def _foreseen(
    explanation: Json, counted: Mapping[tuple[str, str], int]
) -> set[tuple[str, str]]:
    """Which endpoints may be asked, by cluster and address: a mirror's are all of its cluster."""
    destinations = {
        (target["cluster"], endpoint["address"])
        for target in explanation.get("destinations", ())
        for endpoint in target["endpoints"]
    }
    mirrors = {mirror["cluster"] for mirror in explanation.get("mirrors", ())}
    return destinations | {key for key in counted if key[0] in mirrors}


def agrees(explanation: Json, status: int, *, is_seen: bool) -> bool:
    """Whether a status is what the explanation foresees; `is_seen` says that one of its endpoints
    was asked.
    """
    abort = explanation.get("abort", {})
    expected = explanation.get(
        "status", abort.get("status") if abort.get("percent") == 100 else None
    )
    if expected is not None:
        return bool(status == expected)

    endpoints = [
        e for target in explanation.get("destinations", ()) for e in target["endpoints"]
    ]
    if endpoints and all(e.get("accepts") is False for e in endpoints):
        return status in _REFUSALS
    return is_seen or _may_stop_here(explanation)


def _may_stop_here(explanation: Json) -> bool:
    """Whether it was to be expected that no endpoint is asked."""
    clusters = {target["cluster"] for target in explanation.get("destinations", ())}
    is_way_out = bool(clusters & WAYS_OUT.keys())
    return (
        "abort" in explanation
        or is_way_out
        or not any(t["endpoints"] for t in explanation.get("destinations", ()))
    )


def _requests(admin: ProxyAdmin) -> Mapping[tuple[str, str], int]:
    """How many requests each endpoint was sent, by cluster and address."""
    try:
        statuses = json.loads(admin.get("/clusters?format=json")).get(
            "cluster_statuses", ()
        )
    except ValueError as error:
        raise DockermeshError(
            "the proxy's counters cannot be read", where=admin.pod
        ) from error

    found = {}
    for cluster in statuses:
        for entry in cluster.get("host_statuses", ()):
            socket = entry.get("address", {}).get("socket_address", {})
            numbers = {
                s["name"]: int(s.get("value", 0)) for s in entry.get("stats", ())
            }
            address = f"{socket.get('address', '')}:{socket.get('port_value', 0)}"
            found[str(cluster.get("name", "")), address] = numbers.get("rq_total", 0)

    return found
