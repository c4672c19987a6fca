"""`MeshState`: everything translation may look at, as one immutable snapshot.

`build_mesh` joins the registry's catalog with the Istio resources. What did not change since the
previous state is the same object in the next one: translation is cached by identity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from dockermesh.config.hosts import kubernetes_service
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Resolution,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.model.contract import CLUSTER_DOMAIN
from dockermesh.model.protocol import Protocol, agreed, parse_protocol
from dockermesh.model.service import is_service_name
from dockermesh.translate.mesh.attestation import Attestation, attest
from dockermesh.translate.mesh.egress import egress_service
from dockermesh.translate.mesh.modules import Module
from dockermesh.translate.mesh.ownership import Ownership, told_of
from dockermesh.translate.mesh.ownership import owned as own_part
from dockermesh.translate.mesh.ownership import ownership as find_ownership
from dockermesh.translate.mesh.peer_authentication import PeerPolicies
from dockermesh.translate.mesh.projects import Namesakes, namesakes, own_services
from dockermesh.translate.mesh.service_entries import entry_services, merge_services
from dockermesh.translate.mesh.settings import (
    IstioConfig,
    MeshSettings,
    with_mesh_config,
)
from dockermesh.translate.mesh.stand_in import standing_in
from dockermesh.translate.mesh.vips import allocate_vips


@dataclass(frozen=True, slots=True)
class Proxy:
    """Who resources are made for. `workload` is None for a proxy that no registrar attested
    (plaintext xDS).

    `metadata` is what the proxy says of itself in its bootstrap; only EnvoyFilters look at it.
    Without `has_certificate` it can neither offer nor take mutual TLS, and is not asked to.
    """

    id: str
    kind: WorkloadKind = WorkloadKind.SIDECAR
    namespace: str = "default"
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    workload: Workload | None = None
    locality: str = ""
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    has_certificate: bool = True


@dataclass(frozen=True, slots=True)
class MeshState:
    """Services by hostname with their virtual IPs, workloads by name, and the config that applies.

    `names` maps every name by which a service may be called to its hostname; a name belongs to one
    service only. `vips` holds the address that DNS answers for a service. `declared` are the
    services that ServiceEntries make; `owners` tells which one answers requests for an address that
    several of them give. `jwks` holds the key sets of token issuers that were fetched, by URL, and
    `modules` what is known of the modules of plugins, by `WasmPlugin namespace/name`.
    `attestation` is what `services` know of the proxies in front of them. `ownership` tells whose
    names are; `owned` are the registry's services as it has them, and with their own endpoints
    alone.
    """

    services: Mapping[str, Service] = field(
        default_factory=lambda: MappingProxyType({})
    )
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    own_names: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    shared_names: Namesakes = field(default_factory=lambda: MappingProxyType({}))
    vips: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    workloads: Mapping[str, Workload] = field(
        default_factory=lambda: MappingProxyType({})
    )
    config: IstioConfig = field(default_factory=IstioConfig)
    settings: MeshSettings = field(default_factory=MeshSettings)
    base_settings: MeshSettings = field(default_factory=MeshSettings)
    declared: Mapping[str, Service] = field(
        default_factory=lambda: MappingProxyType({})
    )
    owners: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    jwks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    modules: Mapping[str, Module] = field(default_factory=lambda: MappingProxyType({}))
    attestation: Attestation = field(default_factory=Attestation)
    ownership: Ownership = field(default_factory=Ownership)
    owned: Mapping[str, tuple[Service, Service]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def names_in(self, project: str) -> Mapping[str, str]:
        """Names to hostnames as a Compose project understands them."""
        return self.own_names.get(project, self.names)


def build_mesh(
    catalog: Catalog,
    *,
    config: IstioConfig | None = None,
    settings: MeshSettings | None = None,
    jwks: Mapping[str, str] | None = None,
    modules: Mapping[str, Module] | None = None,
    previous: MeshState | None = None,
) -> MeshState:
    """The state after `catalog` (and config); parts that equal `previous` are taken over from it.

    `settings` are those of the control plane; a MeshConfig among the resources overrides them.
    """
    before = previous or MeshState()
    config = config if config is not None else before.config
    declared = _declared(catalog, config, before)
    # As they were given, before attestation: what is made below is compared with its like.
    known = {host: given for host, (given, _) in before.attestation.found.items()}
    base = settings if settings is not None else before.base_settings
    names_of = _ownership(catalog, config, base.service_domain, before)
    shared_names = (
        before.shared_names
        if names_of is before.ownership
        else _several(namesakes(catalog.workloads.values()), names_of.refused)
    )
    owned = _owned(catalog, names_of, before)
    services = {host: made for host, (_, made) in owned.items()}
    services = _with_workloads(services, names_of, base.service_domain, known)
    for own in own_services(
        services,
        catalog.services,
        shared_names,
        base.service_domain,
        lambda name, project, e: not names_of.why_refused(name, e, project),
    ):
        services[own.hostname] = _kept(known.get(own.hostname), own)
    services |= egress_service(
        catalog.workloads,
        (resource.spec for resource in config.gateways),
        base.service_domain,
        known,
    )
    # A registry's own service keeps its name: a ServiceEntry for it would take away its endpoints.
    for host, service in declared.items():
        services.setdefault(host, service)
    settings = _settings(base, config, before)
    policies = _peer_policies(config, settings, before)
    attestation = attest(
        services, catalog.services, names_of, policies, before.attestation
    )
    services = {host: made for host, (_, made) in attestation.found.items()}
    # All four follow from names and addresses alone, whatever endpoints come and go. Made anew they
    # would be other objects, and for new `names` all config is indexed again.
    vips, names, own_names, owners = (
        before.vips,
        before.names,
        before.own_names,
        before.owners,
    )
    if not _is_addressed_alike(services, before.services):
        vips, names, owners = _vips(services), _names(services), _owners(services)
        own_names = _own_names(services, names)

    return MeshState(
        services=services,
        names=names,
        own_names=own_names,
        shared_names=shared_names,
        vips=vips,
        workloads=catalog.workloads,
        config=config,
        settings=settings,
        base_settings=base,
        declared=declared,
        owners=owners,
        jwks=jwks if jwks is not None else before.jwks,
        modules=modules if modules is not None else before.modules,
        attestation=attestation,
        ownership=names_of,
        owned=owned,
    )


def _ownership(
    catalog: Catalog, config: IstioConfig, domain: str, before: MeshState
) -> Ownership:
    is_same = config is before.config and domain == before.base_settings.service_domain
    told = before.ownership.told if is_same else told_of(config, domain)
    return find_ownership(catalog.workloads, told, before.ownership)


def _owned(
    catalog: Catalog, names: Ownership, before: MeshState
) -> dict[str, tuple[Service, Service]]:
    found = {}
    is_same = names is before.ownership
    for host, given in catalog.services.items():
        known = before.owned.get(host)
        if is_same and known is not None and known[0] is given:
            found[host] = known
        else:
            old = known[1] if known is not None else None
            found[host] = (given, _kept(old, own_part(given, names)))
    return found


def _several(names: Namesakes, refused: Namesakes) -> Namesakes:
    """What projects have for themselves: of a name that is of several, or that is another's."""
    return {
        name: {**refused.get(name, {}), **names.get(name, {})}
        for name in names.keys() | refused.keys()
    }


def _peer_policies(
    config: IstioConfig, settings: MeshSettings, before: MeshState
) -> PeerPolicies:
    is_same = config.peer_authentications == before.config.peer_authentications
    if is_same and settings.root_namespace == before.settings.root_namespace:
        return before.attestation.policies
    return PeerPolicies(config.peer_authentications, settings.root_namespace)


def _settings(
    base: MeshSettings, config: IstioConfig, before: MeshState
) -> MeshSettings:
    if (
        base is before.base_settings
        and config.mesh_configs == before.config.mesh_configs
    ):
        return before.settings
    for resource in config.mesh_configs[:1]:
        return with_mesh_config(base, resource.spec)
    return base


def _declared(
    catalog: Catalog, config: IstioConfig, before: MeshState
) -> Mapping[str, Service]:
    """The services of ServiceEntries. What equals the service before is the same object."""
    has_selector = any(
        r.spec.workload_selector is not None for r in config.service_entries
    )
    # Only by a selector are endpoints made of workloads.
    is_same = not has_selector or catalog.workloads is before.workloads
    if config is before.config and is_same:
        return before.declared

    selected = catalog.workloads if has_selector else {}
    made = _entry_services(config, [selected[name] for name in sorted(selected)])

    return {
        host: _kept(before.declared.get(host), service)
        for host, service in made.items()
    }


def _entry_services(
    config: IstioConfig, workloads: Iterable[Workload]
) -> dict[str, Service]:
    made: dict[str, Service] = {}
    for resource in config.service_entries:
        for service in entry_services(resource, config.workload_entries, workloads):
            known = made.get(service.hostname)
            made[service.hostname] = (
                service if known is None else merge_services(known, service)
            )

    return made


def _kept(old: Service | None, new: Service) -> Service:
    """The old object where nothing differs, since translation is cached by identity."""
    return old if old is not None and old == new else new


def _owners(services: Mapping[str, Service]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for host in sorted(services):
        for address in services[host].addresses:
            owners.setdefault(address, host)
    return owners


def _is_addressed_alike(
    services: Mapping[str, Service], before: Mapping[str, Service]
) -> bool:
    """Whether nothing changed that names and virtual IPs depend on."""
    if services.keys() != before.keys():
        return False
    # Most services are the same objects, whatever else changes.
    pairs = ((service, before[host]) for host, service in services.items())
    return all(one is old or _addressing(one) == _addressing(old) for one, old in pairs)


def _addressing(service: Service) -> tuple[object, ...]:
    return (
        service.name,
        service.namespace,
        service.aliases,
        service.addresses,
        service.resolution,
        service.is_declared,
    )


def _vips(services: Mapping[str, Service]) -> dict[str, str]:
    """The addresses that DNS answers: the service's own, or one of ours.

    A service that is reached at the address which its client dialled has none, or nobody would dial
    that address.
    """
    fixed = {
        host: address
        for host, service in services.items()
        if (address := next((a for a in service.addresses if "/" not in a), ""))
    }
    ours = [host for host, service in services.items() if _needs_vip(host, service)]
    return fixed | allocate_vips(ours)


def _needs_vip(host: str, service: Service) -> bool:
    # A wildcard is no name that DNS can answer with one address.
    return (
        not service.addresses
        and not host.startswith("*")
        and service.resolution is not Resolution.NONE
    )


def host_names(service: Service) -> list[str]:
    """Every name by which an app may call the service, the hostname first.

    Consul's forms (`reviews.service.consul`, `reviews.service`), Kubernetes'
    (`reviews.default.svc.cluster.local` and what it shortens to), the short name, and the aliases.
    One that a ServiceEntry makes has its hostname alone, unless that is of Kubernetes' form.
    """
    name, namespace = service.name, service.namespace
    if service.is_declared:
        known = kubernetes_service(service.hostname)
        forms = (
            [f"{known[0]}.{known[1]}.svc", ".".join(known), known[0]]
            if known is not None
            else []
        )
        return [service.hostname, *forms]

    listed = [
        service.hostname,
        *([service.shared] if service.shared else []),
        name,
        f"{name}.service",
        f"{name}.{namespace}",
        f"{name}.{namespace}.svc",
        f"{name}.{namespace}.{CLUSTER_DOMAIN}",
        *service.aliases,
        # What resources can call it, whose hosts have no `_`.
        *([name.replace("_", "-")] if "_" in name else []),
    ]
    return list(dict.fromkeys(text.lower() for text in listed))


def _names(services: Mapping[str, Service]) -> dict[str, str]:
    """Names to hostnames. A hostname is never taken away by another service's alias; else the first
    in order wins.
    """
    names = {host.lower(): host for host in services}
    # Sorted, so that replicas of the control plane agree on who has a contested name.
    for host in sorted(
        host for host, service in services.items() if not service.project
    ):
        for name in host_names(services[host]):
            names.setdefault(name, host)
    return names


def _own_names(
    services: Mapping[str, Service], names: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The names of each project that has services of its own: their short names are theirs."""
    found: dict[str, dict[str, str]] = {}
    for host in sorted(host for host, service in services.items() if service.project):
        own = found.setdefault(services[host].project, dict(names))
        shared = services[host].shared
        # What another service's name is meanwhile stays that one's.
        own |= {
            name: host
            for name in host_names(services[host])
            if names.get(name, host) in {shared, host}
        }

    return found


def _with_workloads(
    own: Mapping[str, Service],
    names: Ownership,
    domain: str,
    before: Mapping[str, Service],
) -> dict[str, Service]:
    """The services with their own endpoints, and those that only stopped workloads serve now.

    A service lives as long as a pod of it exists. When no endpoint is registered, one stands in
    that refuses every connection at once: requests are then retried until the app is back, instead
    of failing at the first try.
    """
    services = dict(own)
    workloads = names.workloads.values()
    for waiting in _waiting(services, names, domain):
        services[waiting.hostname] = _kept(before.get(waiting.hostname), waiting)

    # Aliases go to services that are only waiting, too, and what a project has for itself gets
    # those of the shared one later: the order matters.
    for host, aliases in _aliases(workloads, domain, services).items():
        named = replace(services[host], aliases=aliases)
        services[host] = _kept(before.get(host), named)
    return services


def _waiting(
    services: Mapping[str, Service], names: Ownership, domain: str
) -> list[Service]:
    """The services of which no endpoint is registered, though a pod of theirs exists."""
    # One endpoint for each port and account: as many replicas as there may be refuse no better, and
    # all the identities that the service may have stay known.
    missing: dict[str, dict[tuple[int, str], Endpoint]] = defaultdict(dict)
    protocols: dict[tuple[str, int], Protocol] = {}

    for workload in names.workloads.values():
        for served in workload.ports:
            for name in {served.service, workload.compose_service}:
                host = f"{name}.{domain}".lower()
                known = services.get(host)
                is_away = known is None or not known.endpoints

                if is_away and names.serves(name, workload):
                    protocols[host, served.port] = agreed(
                        protocols.get((host, served.port)),
                        parse_protocol(served.protocol) or Protocol.AUTO,
                    )
                    endpoint = standing_in(workload, served.port)
                    missing[host][served.port, endpoint.service_account] = endpoint

    return [
        _stand_in(host, domain, endpoints, protocols)
        for host, endpoints in missing.items()
    ]


def _aliases(
    workloads: Iterable[Workload], domain: str, services: Mapping[str, Service]
) -> dict[str, tuple[str, ...]]:
    """The names that Docker's DNS has for Compose services besides their own, by the service's
    hostname.

    One that several services have stays Docker's, which gives all of their addresses. So does one
    with dots, which could be somebody's on the internet.
    """
    holders: dict[str, set[str]] = defaultdict(set)
    for workload in workloads:
        for alias in workload.aliases:
            holders[alias.lower()].add(f"{workload.compose_service}.{domain}".lower())

    found: dict[str, list[str]] = defaultdict(list)
    for alias in sorted(holders):
        host = min(holders[alias])
        is_free = f"{alias}.{domain}" not in services

        if (
            len(holders[alias]) == 1
            and host in services
            and is_free
            and is_service_name(alias)
        ):
            found[host].append(alias)

    return {host: tuple(aliases) for host, aliases in found.items()}


def _stand_in(
    host: str,
    domain: str,
    endpoints: Mapping[tuple[int, str], Endpoint],
    protocols: Mapping[tuple[str, int], Protocol],
) -> Service:
    numbers = sorted({port for port, _ in endpoints})
    # Where replicas disagree, none of their namespaces is more right than another.
    namespaces = {endpoint.namespace for endpoint in endpoints.values()}
    return Service(
        name=host.removesuffix(f".{domain}"),
        hostname=host,
        ports=tuple(Port(number, protocols[host, number]) for number in numbers),
        endpoints=tuple(endpoints[key] for key in sorted(endpoints)),
        namespace=namespaces.pop() if len(namespaces) == 1 else "default",
    )
