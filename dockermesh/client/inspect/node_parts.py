"""The workloads of this host in node mode, and the part of the shared proxy that is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dockermesh.client.compose.node import attached
from dockermesh.client.inspect.dump import Dump, Json
from dockermesh.client.inspect.proxies import LocalProxy, local_proxies
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.summary import name_of
from dockermesh.model.contract import (
    LABEL_KIND,
    LABEL_NAMESPACE,
    LABEL_ROLE,
    NODE_CONTAINER,
)
from dockermesh.model.workload import WorkloadKind
from dockermesh.registrar.container import parse_container
from dockermesh.registrar.node_mode import Brought, as_workload, is_asked_for


def all_proxies(engine: LocalEngine) -> list[LocalProxy]:
    """The proxies of this host, with one for each workload that the host's own serves."""
    return [*local_proxies(engine), *node_proxies(engine)]


def node_proxies(engine: LocalEngine) -> list[LocalProxy]:
    """One for each workload in node mode that runs, at the pod of the host's proxy."""
    nodes = engine.containers([f"{LABEL_KIND}={WorkloadKind.NODE.value}"])
    pods = [
        n["Id"]
        for n in nodes
        if n["State"] == "running" and n["Labels"].get(LABEL_ROLE) == "pod"
    ]
    if not pods:
        return []

    found = []
    now = attached(engine)
    for summary in engine.containers():
        name = name_of(summary)
        if summary["State"] != "running" or not is_asked_for(
            name, summary["Labels"], now
        ):
            continue
        data = engine.inspect(summary["Id"])
        if data is None:
            continue
        made = as_workload(parse_container(data), Brought(), now)
        if made.is_node_mode:
            space = made.labels.get(LABEL_NAMESPACE, "default")
            names = (name, summary["Id"])
            found.append(LocalProxy(made.group, space, pods[0], names, is_part=True))
    return sorted(found, key=lambda proxy: proxy.workload)


def node_workload(engine: LocalEngine) -> str:
    """What the host's own proxy is called as a workload."""
    return next(
        (p.workload for p in local_proxies(engine) if NODE_CONTAINER in p.containers),
        "",
    )


def part_of(dump: Dump, workload: str) -> Dump:
    """What of a shared proxy's dump is a workload's: its listeners, under the names that they have
    at a sidecar, and the route tables that these use. Clusters and endpoints are shared.
    """
    ending = f"|{workload}"
    section = dump.sections.get("ListenersConfigDump", {})
    listeners = [
        _renamed(entry, ending)
        for entry in section.get("dynamic_listeners", ())
        if str(entry.get("name", "")).endswith(ending)
    ]
    used = set(_tables(listeners))
    routes = dump.sections.get("RoutesConfigDump", {})
    tables = [
        entry
        for entry in routes.get("dynamic_route_configs", ())
        if entry.get("route_config", {}).get("name") in used
    ]
    mine: Mapping[str, Json] = {
        "ListenersConfigDump": {**section, "dynamic_listeners": listeners},
        "RoutesConfigDump": {**routes, "dynamic_route_configs": tables},
    }
    return Dump({**dump.sections, **mine})


def _renamed(entry: Json, ending: str) -> Json:
    return dict(json.loads(json.dumps(entry), object_hook=_short(ending)))


def _short(ending: str) -> Any:
    def shorten(found: Json) -> Json:
        name = found.get("name")
        if isinstance(name, str) and name.endswith(ending):
            return found | {"name": name.removesuffix(ending)}
        return found

    return shorten


def _tables(value: Any) -> Iterator[str]:
    """The route tables that something asks for."""
    if isinstance(value, list):
        for item in value:
            yield from _tables(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "route_config_name" and isinstance(item, str):
                yield item
            else:
                yield from _tables(item)
