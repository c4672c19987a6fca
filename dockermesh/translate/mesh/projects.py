"""Names that several Compose projects have: within a project its own service is meant, as without
the mesh.

A registry has one service `db` however many projects start one. Beside it, which is what everybody
else calls so, each of these projects gets one of its own, `db.<project>.service.consul`: without
the endpoints of the others' Compose services of that name. What joins the name in another way
(`SERVICE_NAME`, a registration from outside) is part of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dockermesh.model import Endpoint, Port, ServedPort, Service, Workload
from dockermesh.model.protocol import Protocol, agreed, parse_protocol
from dockermesh.model.workload import JOINED, compose_names
from dockermesh.translate.mesh.stand_in import standing_in


@dataclass(slots=True)
class Own:
    """What a project serves under a name of its own, and who does."""

    ports: dict[int, Protocol] = field(default_factory=dict)
    served: list[tuple[Workload, ServedPort]] = field(default_factory=list)

    def add(self, workload: Workload, served: ServedPort) -> None:
        """One more port of a workload."""
        protocol = parse_protocol(served.protocol) or Protocol.AUTO
        self.ports[served.port] = agreed(self.ports.get(served.port), protocol)
        self.served.append((workload, served))


Namesakes = Mapping[str, Mapping[str, Own]]


def namesakes(workloads: Iterable[Workload]) -> Namesakes:
    """The names that several projects have, with what each serves under them."""
    by_service: dict[str, dict[str, list[Workload]]] = defaultdict(dict)
    for workload in workloads:
        project, service = compose_names(workload.name)
        if project != JOINED:
            by_service[service].setdefault(project, []).append(workload)

    found: dict[str, dict[str, Own]] = defaultdict(lambda: defaultdict(Own))
    for service, projects in by_service.items():
        # Nearly always there is one.
        if len(projects) > 1:
            for project, members in projects.items():
                _collect(found, service, project, members)

    return {name: projects for name, projects in found.items() if len(projects) > 1}


def _collect(
    found: dict[str, dict[str, Own]],
    service: str,
    project: str,
    members: Iterable[Workload],
) -> None:
    for workload in members:
        for served in workload.ports:
            for name in default_names(service, served.port) & {service, served.service}:
                found[name.lower()][project].add(workload, served)


def default_names(service: str, port: int) -> set[str]:
    """What a Compose service is called when nobody says otherwise: with the port if it has several
    (registrator).
    """
    return {service, f"{service}-{port}"}


def own_services(
    services: Mapping[str, Service],
    registered: Mapping[str, Service],
    names: Namesakes,
    domain: str,
    accepts: Callable[[str, str, Endpoint], bool],
) -> Iterator[Service]:
    """What each of these projects has for itself: of the `registered` endpoints of the name those
    that it `accepts` (by name and project).
    """
    for name, projects in names.items():
        shared = services.get(f"{name}.{domain}")
        if shared is None:
            continue
        # The shared one lacks what is another's, and that may be this project's own.
        given = registered.get(shared.hostname, shared).endpoints or shared.endpoints
        for project, own in projects.items():
            endpoints = tuple(
                e
                for e in given
                if not _is_anothers(e, name, project) and accepts(name, project, e)
            )
            hostname = f"{name}.{project}.{domain}".lower()
            yield _own(shared, project, own, hostname, endpoints)


def _own(
    shared: Service,
    project: str,
    own: Own,
    hostname: str,
    found: tuple[Endpoint, ...],
) -> Service:
    # Those of another project are never called, also while its own are away.
    endpoints = found or _standing_in(own)
    namespaces = {workload.namespace for workload, _ in own.served}

    return replace(
        shared,
        hostname=hostname,
        ports=_ports(shared, own, endpoints),
        endpoints=endpoints,
        namespace=namespaces.pop() if len(namespaces) == 1 else shared.namespace,
        project=project,
        shared=shared.hostname,
    )


def _standing_in(own: Own) -> tuple[Endpoint, ...]:
    """What refuses in place of endpoints that are away, one for each port and account."""
    made = (standing_in(workload, served.port) for workload, served in own.served)
    by_kind = {(e.service_port, e.service_account): e for e in made}
    return tuple(by_kind[kind] for kind in sorted(by_kind))


def _ports(
    shared: Service, own: Own, endpoints: Iterable[Endpoint]
) -> tuple[Port, ...]:
    """The ports that the project serves."""
    known = own.ports | {port.number: port.protocol for port in shared.ports}
    served = own.ports.keys() | {e.service_port or e.port for e in endpoints}

    # The protocol of the shared port may be another project's word: its own counts, if it says one.
    said = {n: p for n, p in own.ports.items() if p is not Protocol.AUTO}
    protocols = {**known, **said}
    return tuple(Port(n, protocols[n]) for n in sorted(known.keys() & served))


def _is_anothers(endpoint: Endpoint, name: str, project: str) -> bool:
    """Whether it is of another project's Compose service of that name."""
    owner, service = compose_names(endpoint.workload)
    return owner not in {"", JOINED, project} and name in default_names(
        service.lower(), endpoint.port
    )
