"""Whose a service's name is, and whose endpoints it therefore takes.

A name is that of one Compose project: of the project that has a Compose service of the name (or a
version of it: `reviews-v1` for `reviews`), of several the one that served it first. Registering
under a name is no way into a service: endpoints of other projects are refused, and their accounts
are none that clients accept; so is what no workload of the mesh stands for, where the service has
workloads. For the project that was refused the name stands for its own workloads.

Taken all the same is who has an account of the service (`namespace` and `serviceAccount` say so),
who joined with a token, which names the service, and whom a resource names for the host: accounts
in `subjectAltNames` of a DestinationRule or ServiceEntry; and endpoints without a proxy, where a
DestinationRule (or a subset of it) has the TLS mode DISABLE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from dockermesh.config.api.destination_rule import (
    ClientTlsMode,
    ClientTlsSettings,
    DestinationRule,
)
from dockermesh.config.hosts import kubernetes_service
from dockermesh.model import (
    Endpoint,
    Identity,
    Port,
    Refusal,
    RefusedFor,
    Service,
    Workload,
)
from dockermesh.model.protocol import Protocol, agreed, parse_protocol
from dockermesh.model.service import is_service_name
from dockermesh.model.workload import JOINED, compose_names
from dockermesh.translate.mesh.projects import Namesakes, Own, default_names
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.stand_in import REFUSING

Account = tuple[str, str]
_NOBODY: Mapping[str, frozenset[Account]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Told:
    """What resources say of services, by name: whose accounts they have, too, and which take
    plaintext.
    """

    accounts: Mapping[str, frozenset[Account]] = field(default_factory=lambda: _NOBODY)
    plaintext: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ownership:
    """What was found out about names from the records of workloads.

    `accounts`, in order, and `ports` go by name, and by `<project>/<name>` for what a project has
    for itself. `refused` are projects that serve a name which is another's, with what they serve;
    `owners` the projects that have a name.
    """

    workloads: Mapping[str, Workload] = field(
        default_factory=lambda: MappingProxyType({})
    )
    told: Told = field(default_factory=Told)
    accounts: Mapping[str, tuple[Account, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    ports: Mapping[str, Mapping[int, Protocol]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    owners: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    refused: Namesakes = field(default_factory=lambda: MappingProxyType({}))

    def accounts_of(self, name: str, project: str = "") -> tuple[Account, ...]:
        """The accounts of the workloads that serve a name, for a project or for all."""
        return self.accounts.get(key_of(name, project), ())

    def why_refused(self, name: str, endpoint: Endpoint, project: str = "") -> str:
        """Why an endpoint is none of the service; empty if it is one."""
        accounts = self.accounts_of(name, project)
        if not accounts:
            return (
                ""  # No workload of the mesh serves it: it is as its registry has it.
            )
        workload = self.workloads.get(endpoint.workload)
        if workload is not None:
            account = _account(workload)
        elif (endpoint.address, endpoint.port) == REFUSING:
            account = (endpoint.namespace, endpoint.service_account)
        elif name.lower() in self.told.plaintext:
            return ""
        else:
            return "no proxy of the mesh is in front of it"
        if account in accounts:
            return ""
        return f"{account[0]}/{account[1]} is no account of the service"

    def serves(self, name: str, workload: Workload) -> bool:
        """Whether the workload is one of the service's."""
        return _account(workload) in self.accounts_of(name)


def key_of(name: str, project: str) -> str:
    """The key of a service in `Ownership`."""
    # A slash is in no name, and host names know no case.
    return (f"{project}/{name}" if project else name).lower()


def ownership(
    workloads: Mapping[str, Workload], told: Told, before: Ownership
) -> Ownership:
    """Whose the names are; the object of before if nothing is new."""
    if workloads is before.workloads and told == before.told:
        return before
    names: dict[str, dict[str, _Claim]] = defaultdict(dict)
    for workload in workloads.values():
        _collect(names, workload)

    found = _Found(told)
    for name, claims in names.items():
        found.settle(name, claims)
    return Ownership(
        workloads,
        told,
        found.accounts,
        found.ports,
        found.owners,
        found.refused,
    )


@dataclass(slots=True)
class _Claim:
    """What a project serves under a name, by when it began to."""

    since: int
    is_own: bool = False
    accounts: set[Account] = field(default_factory=set)
    own: Own = field(default_factory=Own)


def _collect(names: dict[str, dict[str, _Claim]], workload: Workload) -> None:
    project, compose = compose_names(workload.name)
    for served in workload.ports:
        for name in {compose.lower(), served.service.lower()}:
            if not is_service_name(name):
                continue
            since = workload.since.get(name, 0)
            claim = names[name].setdefault(project, _Claim(since))
            claim.since = min(claim.since, since)
            claim.is_own = claim.is_own or _is_own(name, compose.lower(), served.port)
            claim.accounts.add(_account(workload))
            claim.own.add(workload, served)


def _is_own(name: str, compose: str, port: int) -> bool:
    """Whether a Compose service is called so without anybody saying it, or is a version of what
    is.
    """
    return name in default_names(compose, port) or compose.startswith(f"{name}-")


@dataclass(slots=True)
class _Found:
    """Collects what `Ownership` holds."""

    told: Told
    accounts: dict[str, tuple[Account, ...]] = field(default_factory=dict)
    ports: dict[str, dict[int, Protocol]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    refused: dict[str, dict[str, Own]] = field(default_factory=dict)

    def settle(self, name: str, claims: Mapping[str, _Claim]) -> None:
        """Decide about one name."""
        joined = claims[JOINED].accounts if JOINED in claims else set()
        listed = self.told.accounts.get(name, frozenset())
        everybody = {a for claim in claims.values() for a in claim.accounts}
        others = joined | (listed & everybody)

        projects = [project for project in claims if project != JOINED]
        owner = min(projects, key=lambda p: _rank(p, claims[p]), default=JOINED)
        accepted = claims[owner].accounts | others
        self.owners[name] = owner
        self._take(name, accepted, claims.values())

        for project in projects:
            claim = claims[project]
            own = claim.accounts | others
            self._take(key_of(name, project), own, [claim])
            if not claim.accounts <= accepted:
                self.refused.setdefault(name, {})[project] = claim.own

    def _take(self, key: str, accounts: set[Account], claims: Iterable[_Claim]) -> None:
        self.accounts[key] = tuple(sorted(accounts))
        ports: dict[int, Protocol] = {}
        self.ports[key] = ports
        for workload, served in (pair for c in claims for pair in c.own.served):
            if _account(workload) in accounts:
                protocol = parse_protocol(served.protocol) or Protocol.AUTO
                ports[served.port] = agreed(ports.get(served.port), protocol)


def _rank(project: str, claim: _Claim) -> tuple[bool, int, str]:
    return not claim.is_own, claim.since, project


def _account(workload: Workload) -> Account:
    identity = workload.identity("")
    return identity.namespace, identity.service_account


def owned(service: Service, names: Ownership) -> Service:
    """The service without the endpoints that are none of its own."""
    kept = tuple(e for e in service.endpoints if not names.why_refused(service.name, e))
    if len(kept) == len(service.endpoints):
        return service

    # Neither does who is refused say what is spoken on a port, nor in which namespace it is.
    said = {p.number: p.protocol for p in service.ports}
    promised = names.ports.get(key_of(service.name, ""), {})
    protocols = {n: said[n] for e in kept if (n := e.service_port or e.port) in said}
    protocols |= promised
    namespaces = {e.namespace for e in kept} or {
        namespace for namespace, _ in names.accounts_of(service.name)
    }
    return replace(
        service,
        endpoints=kept,
        ports=tuple(Port(n, p) for n, p in sorted(protocols.items())),
        namespace=namespaces.pop() if len(namespaces) == 1 else "default",
    )


# What resources say
# --------------------------------------------------------------------------------------------------


def told_of(config: IstioConfig, domain: str) -> Told:
    """What DestinationRules and ServiceEntries say of services of the registry."""
    accounts: dict[str, set[Account]] = defaultdict(set)
    plaintext: set[str] = set()

    for rule in config.destination_rules:
        name = _name_of(rule.spec.host, domain)
        for tls in _tls_settings(rule.spec):
            accounts[name].update(_accounts_in(tls.subject_alt_names))
            if tls.mode is ClientTlsMode.DISABLE:
                plaintext.add(name)
    for entry in config.service_entries:
        for host in entry.spec.hosts:
            accounts[_name_of(host, domain)].update(
                _accounts_in(entry.spec.subject_alt_names)
            )

    accounts.pop("", None)
    named = {name: frozenset(listed) for name, listed in accounts.items() if listed}
    return Told(MappingProxyType(named), frozenset(plaintext - {""}))


def _name_of(host: str, domain: str) -> str:
    """The service that a host of a rule means; empty if it is none of a registry, or many."""
    host = host.lower()
    known = kubernetes_service(host)
    if known is not None:
        return known[0]
    name = host.removesuffix(f".{domain}").removesuffix(".service")
    return name if is_service_name(name) else ""


def _tls_settings(rule: DestinationRule) -> Iterator[ClientTlsSettings]:
    policies = (rule.traffic_policy, *(s.traffic_policy for s in rule.subsets))
    for policy in policies:
        if policy is not None:
            for tls in (policy.tls, *(p.tls for p in policy.port_level_settings)):
                if tls is not None:
                    yield tls


def _accounts_in(names: Iterable[str]) -> Iterator[Account]:
    for name in names:
        try:
            identity = Identity.parse(name)
        except ValueError:
            continue
        yield identity.namespace, identity.service_account


# What is shown
# --------------------------------------------------------------------------------------------------


def refusals(
    found: Mapping[str, tuple[Service, Service]], names: Ownership
) -> Iterator[Refusal]:
    """The registrations that get none of a name's requests, and why."""
    # Asked at every change, and nearly always nothing is refused.
    changed = [host for host, (given, made) in found.items() if made is not given]
    for host in sorted(changed):
        given, _ = found[host]
        for endpoint in given.endpoints:
            why = names.why_refused(given.name, endpoint)
            if why:
                yield Refusal(
                    kind=RefusedFor.NAME,
                    asker=endpoint.workload or endpoint.id or "an endpoint",
                    at=f"{endpoint.address}:{endpoint.port}",
                    service=given.name,
                    namespace=given.namespace,
                    wanted=given.name,
                    owner=names.owners.get(given.name.lower(), ""),
                    why=why,
                    fix=_LET_IN if endpoint.workload in names.workloads else _PLAIN,
                )


_LET_IN = (
    "give it a SERVICE_NAME of its own, or let it in: its account in subjectAltNames of a"
    " ServiceEntry or DestinationRule for the service"
)
_PLAIN = (
    "give it a SERVICE_NAME of its own, bring it up in the mesh, or let it in: a subset of a"
    " DestinationRule with the TLS mode DISABLE"
)


def given_way(services: Iterable[Service]) -> Iterator[Refusal]:
    """The registrations that asked for an id which is another's."""
    for service in services:
        for endpoint in service.endpoints:
            if endpoint.gave_way:
                wanted, _, holder = endpoint.gave_way.partition(" ")
                yield Refusal(
                    kind=RefusedFor.ID,
                    asker=endpoint.workload or endpoint.id,
                    at=f"{endpoint.address}:{endpoint.port}",
                    service=service.name,
                    namespace=service.namespace,
                    wanted=wanted,
                    owner=holder,
                    why=f"it is registered as {endpoint.id}",
                    fix="give it a SERVICE_ID of its own, or none",
                )
