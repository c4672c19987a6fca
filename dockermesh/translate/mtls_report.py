"""What is encrypted between which workloads and services, by what, and who would be refused if all
had to be.

Pure, and said of the configuration: it tells what proxies do when a client calls a service, not who
calls whom. It asks the same functions that translation does, so that it cannot tell anything else
than proxies are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from dockermesh.config.api.destination_rule import ClientTlsMode, Subset, TrafficPolicy
from dockermesh.config.api.peer_authentication import MutualTlsMode
from dockermesh.model import Endpoint, Port, Service, WorkloadKind
from dockermesh.translate.clusters.cluster import has_assignment, ports_of
from dockermesh.translate.clusters.endpoints import serving
from dockermesh.translate.mesh.attestation import why_plaintext
from dockermesh.translate.mesh.delegates import Delegation
from dockermesh.translate.mesh.host_rules import Rules
from dockermesh.translate.mesh.index import ConfigIndex
from dockermesh.translate.mesh.stand_in import REFUSING
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.traffic_policy import effective_policy
from dockermesh.translate.mesh.visibility import Scope, is_visible


class Encrypted(StrEnum):
    """How much of what goes to a service is encrypted."""

    YES = "yes"
    PARTLY = "partly"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Edge:
    """What happens between clients and a port of a service. `endpoints` counts those there are
    now.
    """

    service: str
    port: int
    subset: str
    clients: tuple[str, ...]
    encrypted: Encrypted
    by: str
    endpoints: int
    modes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Break:
    """Who is refused under STRICT. `refused` tells that it is so already."""

    client: str
    server: str
    port: int
    why: str
    fix: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class MtlsReport:
    """Edges by service, port and subset; and what STRICT breaks."""

    edges: tuple[Edge, ...]
    breaks: tuple[Break, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def mtls_report(mesh: MeshState) -> MtlsReport:
    """The report on a state of the mesh."""
    index = ConfigIndex(mesh, Delegation())
    by_scope: dict[Scope, list[str]] = {}

    for name in sorted(mesh.workloads):
        own = mesh.workloads[name]
        proxy = Proxy(name, own.kind, own.namespace, own.address, own.labels, own)
        by_scope.setdefault(index.scope_of(proxy), []).append(name)

    # Clients are told apart by their scopes alone: in one of them all are told the same.
    found: dict[Edge, list[str]] = {}
    for scope, clients in by_scope.items():
        for host in sorted(mesh.services):
            service = mesh.services[host]
            if _sees(scope, service, mesh):
                for edge in _edges(service, scope, index, mesh):
                    found.setdefault(edge, []).extend(clients)

    edges = [
        replace(edge, clients=tuple(sorted(clients))) for edge, clients in found.items()
    ]
    edges.sort(key=lambda e: (e.service, e.port, e.subset, e.clients))
    return MtlsReport(tuple(edges), tuple(_breaks(edges, mesh)))


def _sees(scope: Scope, service: Service, mesh: MeshState) -> bool:
    return is_visible(
        service, scope.namespace, mesh.settings.service_export_to
    ) and scope.imports(service.namespace, [service.hostname, *service.aliases])


def _edges(
    service: Service, scope: Scope, index: ConfigIndex, mesh: MeshState
) -> Iterator[Edge]:
    rules = index.rules.of(service.hostname, service.namespace, scope, service.shared)
    merged = index.rules.merged(rules)

    for port in ports_of(service):
        for subset in (None, *merged.subsets):
            policy = effective_policy(merged, port.number, subset)
            encrypted, by = _decided(service, port, subset, policy, rules, mesh)
            listed = serving(
                service, port, subset.labels if subset is not None else None
            )
            modes = {
                mode.value
                for e in listed
                if (mode := _mode(e.workload, e.port, mesh)) is not None
            }
            name = subset.name if subset is not None else ""
            yield Edge(
                service.hostname,
                port.number,
                name,
                (),
                encrypted,
                by,
                len(listed),
                tuple(sorted(modes)),
            )


def _decided(
    service: Service,
    port: Port,
    subset: Subset | None,
    policy: TrafficPolicy,
    rules: Rules,
    mesh: MeshState,
) -> tuple[Encrypted, str]:
    """Whether connections to the port are encrypted, and what decides it."""
    tls = policy.tls
    if tls is not None:
        by = (
            f"DestinationRule {', '.join(f'{r.namespace}/{r.name}' for r in rules)}:"
            f" {tls.mode.value}"
        )
        return (
            Encrypted.NO if tls.mode is ClientTlsMode.DISABLE else Encrypted.YES
        ), by

    why_never = _why_never(service, policy, mesh)
    if why_never:
        return Encrypted.NO, why_never

    listed = serving(service, port, subset.labels if subset is not None else None)
    # What only stands in says nothing of the endpoints that come back: records of their workloads
    # do, by which the service is meshed or not.
    if not listed or _is_standing_in(service):
        return (
            Encrypted.YES if service.is_meshed else Encrypted.NO
        ), "auto; no endpoint at the moment"

    return _decided_by_endpoints(service, listed, mesh)


def _why_never(service: Service, policy: TrafficPolicy, mesh: MeshState) -> str:
    """Why no endpoint is called over mutual TLS by itself; empty if one may be."""
    if service.is_external:
        return "outside the mesh"
    if not mesh.settings.auto_mtls:
        return "MeshConfig: enableAutoMtls is false"
    if not has_assignment(service, policy) and not service.endpoints:
        return "it is not known which endpoint is called"
    return ""


def _decided_by_endpoints(
    service: Service, listed: list[Endpoint], mesh: MeshState
) -> tuple[Encrypted, str]:
    known = mesh.attestation
    why = [
        w
        for e in listed
        if (w := why_plaintext(e, service, known.workloads, known.policies))
    ]
    if not why:
        return Encrypted.YES, "auto"

    reasons = ", ".join(dict.fromkeys(why))
    if len(why) == len(listed):
        return Encrypted.NO, reasons
    return Encrypted.PARTLY, f"auto; {len(why)} of {len(listed)} endpoints: {reasons}"


def _is_standing_in(service: Service) -> bool:
    return any((e.address, e.port) == REFUSING for e in service.endpoints)


def _mode(workload: str, port: int, mesh: MeshState) -> MutualTlsMode | None:
    found = mesh.workloads.get(workload)
    return (
        mesh.attestation.policies.modes(found.namespace, found.labels).of(port)
        if found is not None
        else None
    )


# what STRICT breaks
# --------------------------------------------------------------------------------------------------


def _breaks(edges: Iterable[Edge], mesh: MeshState) -> Iterator[Break]:
    for edge in edges:
        if (
            edge.modes
            and edge.by.startswith(("DestinationRule", "MeshConfig"))
            and not edge.by.endswith("ISTIO_MUTUAL")
        ):
            yield Break(
                client=", ".join(edge.clients),
                server=edge.service,
                port=edge.port,
                why=edge.by,
                fix=(
                    "remove tls from the rule, or write ISTIO_MUTUAL"
                    if edge.by.startswith("DestinationRule")
                    else "remove enableAutoMtls"
                ),
                refused=edge.modes == (MutualTlsMode.STRICT.value,),
            )

    yield from _without_proxy(mesh)
    for name in sorted(mesh.workloads):
        workload = mesh.workloads[name]
        if workload.kind is WorkloadKind.GATEWAY:
            continue

        for ports, client, fix in (
            (
                workload.published,
                "everybody who reaches the host",
                "publish the port by the gateway instead",
            ),
            (
                workload.probed,
                "Consul's health check",
                "check with SERVICE_CHECK_TCP, or by Docker's HEALTHCHECK",
            ),
        ):
            for port in ports:
                is_refused = _mode(name, port, mesh) is MutualTlsMode.STRICT
                yield Break(
                    client, name, port, "it calls the pod in plaintext", fix, is_refused
                )


def _without_proxy(mesh: MeshState) -> Iterator[Break]:
    """What runs without a proxy, as far as it is registered: whatever it calls in the mesh, it
    calls in plaintext.
    """
    meshed = {workload.address for workload in mesh.workloads.values()}
    for host in sorted(mesh.services):
        service = mesh.services[host]
        if service.is_declared or _is_standing_in(service):
            continue
        bare = sorted(
            {e.address for e in service.endpoints if e.workload not in mesh.workloads}
            - meshed
        )

        if bare:
            client = f"{service.name} ({', '.join(bare)})"
            yield Break(
                client,
                "every service of the mesh",
                0,
                "it has no proxy",
                "bring it up in the mesh",
            )
