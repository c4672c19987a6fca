"""One service translated for one scope: its clusters, endpoints, routes and listeners, and what
they were made of.

Invariant: `Inputs` holds everything that the resources depend on but endpoints; equal inputs give
equal bytes, so a service whose inputs stayed keeps its resources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.resource import Resource as ConfigResource
from dockermesh.model import Port, Protocol, Service
from dockermesh.model.hosts import bracketed
from dockermesh.translate.clusters.cluster import (
    has_assignment,
    ports_of,
    service_cluster,
)
from dockermesh.translate.clusters.endpoints import (
    load_assignment,
    locality_setting,
    serving,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.isolation import sound
from dockermesh.translate.envoy.origin import note_origin
from dockermesh.translate.envoy.workload_metadata import ServiceName, name_of
from dockermesh.translate.mesh.host_rules import Rules
from dockermesh.translate.mesh.index import UnknownHost
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.stand_in import takes_mtls_alone
from dockermesh.translate.mesh.state import host_names
from dockermesh.translate.mesh.traffic_policy import HostRule, effective_policy
from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.routes.destinations import Dependency, Destinations
from dockermesh.translate.routes.match import decides_by_request
from dockermesh.translate.routes.tables import default_route, table_frame, virtual_host
from dockermesh.translate.routes.tcp import Contribution, contributions
from dockermesh.translate.routes.virtual_service import (
    RouteContext,
    dependencies,
    http_routes,
)
from dockermesh.translate.sidecar import outbound_listeners
from dockermesh.translate.tls import client_tls
from dockermesh.xds.protobuf import frame, serialised
from dockermesh.xds.resources import CLUSTER, ENDPOINTS, ROUTES, Resource, make_resource

DEFAULT_HTTP_PORT = 80
VIRTUAL_HOSTS = 2  # field number in envoy.config.route.v3.RouteConfiguration


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a service's clusters, listeners and routes are made of: everything but its endpoints."""

    hostname: str
    ports: tuple[Port, ...]
    domains: tuple[str, ...]
    vip: str
    settings: MeshSettings
    name: ServiceName | None = None
    rule: ConfigResource[VirtualService] | None = None
    policies: Rules = ()
    dependencies: tuple[Dependency, ...] = ()
    inline_endpoints: object = None
    caller: object = None
    accounts: tuple[tuple[str, str], ...] = ()
    is_meshed: bool = False
    takes_mtls_alone: bool = False
    has_certificate: bool = True
    has_policies: bool = False
    view: str = ""


@dataclass(frozen=True, slots=True)
class Translated:
    """The resources of one service. `hosts` are serialised virtual hosts by HTTP port; of those in
    `judged` a route decides by what a request says.
    """

    service: Service | None
    inputs: Inputs
    clusters: tuple[Resource, ...] = ()
    tables: tuple[Resource, ...] = ()
    hosts: Mapping[int, bytes] = field(default_factory=dict)
    tcp: tuple[Contribution, ...] = ()
    assignments: tuple[Resource, ...] = ()
    secrets: tuple[str, ...] = ()
    judged: frozenset[int] = frozenset()


def inputs_of(
    service: Service,
    domains: tuple[str, ...],
    rule: ConfigResource[VirtualService] | None,
    where: Destinations,
) -> Inputs:
    """The inputs of a service."""
    mesh = where.mesh
    has_inline = service.resolution.value not in {"STATIC", "NONE"}
    rules = where.index.rules.of(
        service.hostname, service.namespace, where.scope, service.shared
    )

    return Inputs(
        hostname=service.hostname,
        ports=service.ports,
        domains=domains,
        vip=mesh.vips.get(_address_of(service, where), ""),
        settings=mesh.settings,
        name=name_of(service),
        rule=rule,
        policies=rules,
        dependencies=dependencies(rule, where) if rule is not None else (),
        caller=caller(rule, where) if rule is not None else None,
        # Endpoints that are resolved by name stand in the cluster itself, so it changes with them.
        inline_endpoints=(
            service.resolution,
            service.addresses,
            service.subject_alt_names,
            # What is outside the mesh is not called over its mutual TLS.
            service.is_external,
            service.endpoints if has_inline else (),
        )
        if service.is_declared
        else service.resolution,
        accounts=service.accounts,
        is_meshed=service.is_meshed,
        takes_mtls_alone=takes_mtls_alone(service),
        # Where no mutual TLS is possible it makes no difference, and scopes with and without a
        # certificate have equal inputs.
        has_certificate=where.scope.has_certificate or not (service.is_meshed or rules),
        # Of no other port it makes a difference: all others keep what was made for them.
        has_policies=any(p.protocol is Protocol.AUTO for p in service.ports)
        and where.index.has_policies(service),
        view=where.scope.view,
    )


def _address_of(service: Service, where: Destinations) -> str:
    """The hostname whose virtual IP the service has in this scope.

    What a project has for itself keeps that of the name: clients remember addresses, and another
    project may come.
    """
    is_own = bool(service.project) and service.project == where.scope.project
    return service.shared if is_own else service.hostname


def caller(rule: ConfigResource[VirtualService], where: Destinations) -> object:
    """What of the client the rule's conditions look at; None if nothing."""
    spec = rule.spec
    matches = [
        m
        for rules in (spec.http, spec.tls, spec.tcp)
        for entry in rules
        for m in entry.match
    ]
    # None, so that all scopes share the routes of a rule that is the same for every client.
    if not any(m.source_labels or m.source_namespace for m in matches):
        return None
    return where.scope.namespace, where.scope.selectors


def assignments(
    service: Service, inputs: Inputs, where: Destinations
) -> tuple[Resource, ...]:
    """The endpoints of every cluster that takes them from EDS."""
    rule = where.index.rules.merged(inputs.policies)
    made = []

    for port in ports_of(service):
        for subset in (None, *rule.subsets):
            policy = effective_policy(rule, port.number, subset)
            if not has_assignment(service, policy):
                continue
            name = names.outbound_cluster(
                service.hostname, port.number, subset.name if subset is not None else ""
            )
            message = load_assignment(
                name,
                serving(service, port, subset.labels if subset is not None else None),
                locality=where.scope.locality,
                labels=dict(where.scope.labels),
                setting=locality_setting(policy, inputs.settings.locality),
            )
            made.append(make_resource(ENDPOINTS, name, serialised(message)))

    return tuple(made)


def translate(service: Service, inputs: Inputs, where: Destinations) -> Translated:
    """All resources of a service."""
    rule = where.index.rules.merged(inputs.policies)
    made_clusters, secrets = _clusters(service, inputs, rule, where.scope)
    hosts: dict[int, bytes] = {}
    tables: list[Resource] = []
    tcp: list[Contribution] = []
    judged: set[int] = set()

    for port in ports_of(service):
        host = _virtual_host(service, port, port.number, inputs, where)
        is_judged = decides_by_request(host.routes)
        if is_judged:
            judged.add(port.number)
        if port.protocol.is_http:
            hosts[port.number] = frame(VIRTUAL_HOSTS, serialised(host))
            continue

        table = where.scope.table(outbound_listeners.sniffed_route(service, port))
        context = RouteContext(where, port.number)
        tcp.extend(
            contributions(
                service,
                port,
                inputs.vip,
                inputs.rule,
                context,
                http_table=table,
                is_judged=is_judged,
                has_policies=inputs.has_policies,
            )
        )

        if port.protocol is Protocol.AUTO:
            if service.is_declared and not service.addresses:
                # Whoever calls an address that DNS did not tell names the service in the request.
                hosts[port.number] = frame(VIRTUAL_HOSTS, serialised(host))

            if inputs.vip:
                tables.append(_sniffed_table(table, host))

    plain = plain_http_port(service)
    if plain is not None:
        host = _virtual_host(service, plain, DEFAULT_HTTP_PORT, inputs, where)
        if decides_by_request(host.routes):
            judged.add(DEFAULT_HTTP_PORT)
        hosts[DEFAULT_HTTP_PORT] = frame(VIRTUAL_HOSTS, serialised(host))

    return Translated(
        service,
        inputs,
        made_clusters,
        tuple(tables),
        hosts,
        tuple(tcp),
        assignments(service, inputs, where),
        secrets,
        frozenset(judged),
    )


def translate_unknown(
    host: UnknownHost, inputs: Inputs, where: Destinations
) -> Translated:
    """The routes of a host that no service has."""
    made = [
        sound(route)
        for route in http_routes(host.rule, RouteContext(where, DEFAULT_HTTP_PORT))
    ]
    hosts = {}

    if made:
        name = f"{host.host}:{DEFAULT_HTTP_PORT}"
        hosts[DEFAULT_HTTP_PORT] = frame(
            VIRTUAL_HOSTS, serialised(virtual_host(name, inputs.domains, made))
        )

    is_judged = decides_by_request(made)
    return Translated(
        None,
        inputs,
        hosts=hosts,
        judged=frozenset({DEFAULT_HTTP_PORT}) if is_judged else frozenset(),
    )


def _clusters(
    service: Service, inputs: Inputs, rule: HostRule, scope: Scope
) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
    made: list[Resource] = []
    secrets: list[str] = []
    settings = inputs.settings

    for port in ports_of(service):
        # A subset has its cluster also while it selects nothing: Envoy then answers "no healthy
        # upstream", and not that it knows no such cluster.
        for subset in (None, *rule.subsets):
            policy = effective_policy(rule, port.number, subset)
            cluster = service_cluster(
                service,
                port,
                settings,
                policy=policy,
                subset=subset,
                check=rule.health_check,
                has_certificate=inputs.has_certificate,
                scope=scope,
            )
            if inputs.policies:
                note_origin(cluster, inputs.policies[0])
            # What users had no part in is not checked: it is ours, and holds by construction.
            if inputs.policies or service.is_declared:
                sound(cluster)
            made.append(make_resource(CLUSTER, cluster.name, serialised(cluster)))
            secrets.extend(
                client_tls.secret_names(policy.tls, verify=settings.verify_certificates)
            )

    return tuple(made), tuple(dict.fromkeys(secrets))


def _virtual_host(
    service: Service, port: Port, dialled: int, inputs: Inputs, where: Destinations
) -> Any:
    """The routing of a service on one port; `dialled` is the port that clients call."""
    made = _ruled_routes(inputs.rule, port, where)
    if not made:
        policy = effective_policy(
            where.index.rules.merged(inputs.policies), port.number
        )
        made = [
            default_route(
                service,
                port,
                policy,
                inputs.settings,
                is_mesh_alone=where.is_mesh_alone(service.hostname, port.number),
                tells_spoken=where.tells_spoken(service.hostname, port.number),
            )
        ]

    # As a dictionary: Envoy refuses a table in which a domain is there twice.
    domains = dict.fromkeys(
        (*inputs.domains, *_owned_addresses(service, inputs, where))
    )

    return virtual_host(f"{service.hostname}:{dialled}", domains, made)


def _ruled_routes(
    rule: ConfigResource[VirtualService] | None, port: Port, where: Destinations
) -> list[Any]:
    """The routes of a rule; none where it says nothing about HTTP, or nothing to this port."""
    if rule is None:
        return []
    return [sound(r) for r in http_routes(rule, RouteContext(where, port.number))]


def _owned_addresses(
    service: Service, inputs: Inputs, where: Destinations
) -> Iterator[str]:
    """The addresses by which requests may name the service, as a Host header writes them."""
    owners = where.mesh.owners
    for address in (inputs.vip, *service.addresses):
        # A network is no host; of an address that several ServiceEntries give, one is the owner.
        if not address or "/" in address:
            continue
        if owners.get(address, service.hostname) == service.hostname:
            yield bracketed(address)


def _sniffed_table(name: str, host: Any) -> Resource:
    table = table_frame(name)
    # The client may call the service by any name: it already dialled this service's own address.
    host.domains[:] = ["*"]
    table.virtual_hosts.append(host)
    return make_resource(ROUTES, name, serialised(table))


def visible_domains(service: Service, names_of: Mapping[str, str]) -> tuple[str, ...]:
    """The names by which the service, and no other, is called."""
    return tuple(n for n in host_names(service) if names_of.get(n) == service.hostname)


def plain_http_port(service: Service) -> Port | None:
    """The port behind `http://<name>/`: the service's only HTTP port, unless it has a port 80
    itself.
    """
    if service.is_declared:
        return None
    http = [port for port in service.ports if port.protocol.is_http]
    has_default = any(port.number == DEFAULT_HTTP_PORT for port in service.ports)
    return http[0] if len(http) == 1 and not has_default else None
