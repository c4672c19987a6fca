"""Where on the host a service's port is published: by its container, its pod, or the gateway.

Invariant: what is told is what the engine publishes, and told as `docker compose port` would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dockermesh.errors import InputError
from dockermesh.model.contract import (
    COMPOSE_NUMBER,
    COMPOSE_ONE_OFF,
    COMPOSE_SERVICE,
    LABEL_KIND,
    LABEL_PORTS,
    LABEL_ROLE,
    LABEL_SERVICE,
    LABEL_WORKLOAD,
)
from dockermesh.model.workload import WorkloadKind

Container = Mapping[str, Any]
"""As the engine lists it."""


def published_port(
    containers: Sequence[Container],
    service: str,
    port: int,
    protocol: str = "tcp",
    index: int = 0,
) -> tuple[str, int]:
    """Address and port of the host that lead to a port of a service's replica; without an index,
    to that of the first. `containers` are those of its project.

    Raises InputError if the replica does not run, or does not publish the port.
    """
    running = [c for c in containers if c["State"] == "running"]
    replicas = {
        number: container
        for container in running
        if (number := _replica(container, service))
    }
    number = index or min(replicas, default=0)
    if number not in replicas:
        which = f" container #{index}" if index else ""
        raise InputError(
            f"service {service!r} is not running{which}",
            fix="`dockermesh ps` lists what runs",
        )

    # A port of the gateway leads to all replicas, and so to this one.
    places: list[tuple[str, int]] = [
        *_bindings(replicas[number], port, protocol),
        *(_of_gateways(running, service, port) if protocol == "tcp" else ()),
    ]
    if not places:
        raise InputError(
            f"port {port}/{protocol} of {service!r} is not published",
            fix=_hint(running, service, replicas[number]),
        )
    return places[0]


def _replica(container: Container, service: str) -> int:
    """Which replica's ports this container would publish; 0 if it is none of the service."""
    labels = container["Labels"]
    if labels.get(COMPOSE_ONE_OFF, "").lower() == "true":
        return 0
    if not labels.get(LABEL_ROLE):
        is_its = labels.get(COMPOSE_SERVICE) == service
        return int(labels.get(COMPOSE_NUMBER) or 1) if is_its else 0

    is_pod = labels[LABEL_ROLE] == "pod" and labels.get(LABEL_SERVICE) == service
    if not is_pod or labels.get(LABEL_KIND) != WorkloadKind.SIDECAR:
        return 0
    return int(labels[LABEL_WORKLOAD].rpartition("-")[2])


def _bindings(
    container: Container, port: int, protocol: str
) -> Iterator[tuple[str, int]]:
    for known in container.get("Ports") or ():
        is_it = known["PrivatePort"] == port and known["Type"] == protocol
        if is_it and known.get("PublicPort"):
            yield str(known["IP"]), int(known["PublicPort"])


def _of_gateways(
    containers: Iterable[Container], service: str, port: int
) -> Iterator[tuple[str, int]]:
    for container in containers:
        for target, listener in _moved(container):
            if target == f"{service}:{port}":
                yield from _bindings(container, listener, "tcp")


def _moved(container: Container) -> Iterator[tuple[str, int]]:
    """Which `service:port` each listener of a gateway stands for."""
    for entry in filter(None, container["Labels"].get(LABEL_PORTS, "").split(",")):
        target, _, listener = entry.partition("=")
        yield target, int(listener)


def _hint(containers: Iterable[Container], service: str, replica: Container) -> str:
    own = {
        f"{known['PrivatePort']}/{known['Type']}"
        for known in replica.get("Ports") or ()
        if known.get("PublicPort")
    }
    moved = {
        f"{target.rpartition(':')[2]}/tcp"
        for container in containers
        for target, _ in _moved(container)
        if target.rpartition(":")[0] == service
    }
    known = sorted(own | moved)
    return f"it publishes {', '.join(known)}" if known else "it publishes no port"
