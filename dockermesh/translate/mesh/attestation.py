"""Which endpoints are reached over mutual TLS, and which identities the servers of a service may
have.

A registry is believed where a service is, not who answers there: an endpoint counts as meshed only
if a workload that a registrar attested is named as its own, and the identities of a service follow
from the records of the workloads that serve it. So who merely registers under a service's name can
neither prove to be it nor have its identities widened.

Invariant: a service to which nothing is new is the object that it was before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from dockermesh.config.api.peer_authentication import MutualTlsMode
from dockermesh.model import Endpoint, Service, Workload, WorkloadKind
from dockermesh.model.workload import TLS_MODE_LABEL
from dockermesh.translate.mesh.ownership import Account, Ownership
from dockermesh.translate.mesh.peer_authentication import PeerPolicies


@dataclass(frozen=True, slots=True)
class Attestation:
    """What was found out about the services of one state of the mesh, and from what.

    `found` are the services as they were given and as they were made of that.
    """

    workloads: Mapping[str, Workload] = field(
        default_factory=lambda: MappingProxyType({})
    )
    policies: PeerPolicies = field(default_factory=lambda: PeerPolicies((), ""))
    found: Mapping[str, tuple[Service, Service]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def found_under(
        self, policies: PeerPolicies
    ) -> Mapping[str, tuple[Service, Service]]:
        """What was found, as far as it can hold under these policies: all, or nothing."""
        return self.found if policies is self.policies else {}


def attest(
    services: Mapping[str, Service],
    registered: Mapping[str, Service],
    names: Ownership,
    policies: PeerPolicies,
    before: Attestation,
) -> Attestation:
    """The services with what is known of their proxies. Those that are not `registered` are made
    from config.
    """
    workloads = names.workloads
    before_found = before.found_under(policies)
    is_same = workloads is before.workloads
    found: dict[str, tuple[Service, Service]] = {}

    for host, given in services.items():
        # What is in no registry, such as a ServiceEntry, has the accounts that its endpoints give.
        own = (
            names.accounts_of(given.name, given.project)
            if host in registered or given.project
            else None
        )
        known = before_found.get(host)

        # Workloads come and go all the time: those that serve it decide.
        if (
            known is not None
            and known[0] is given
            and (own is None or own == known[1].accounts)
            and (is_same or _names_same(given, workloads, before.workloads))
        ):
            found[host] = known
            continue

        made = _attested(given, workloads, policies, own)
        found[host] = (given, _kept(before.found.get(host), made))

    return Attestation(workloads, policies, found)


def _kept(old: tuple[Service, Service] | None, made: Service) -> Service:
    # Equal is not enough for translation, which is cached by identity.
    return old[1] if old is not None and old[1] == made else made


def _names_same(
    service: Service, workloads: Mapping[str, Workload], before: Mapping[str, Workload]
) -> bool:
    return all(
        workloads.get(e.workload) is before.get(e.workload)
        for e in service.endpoints
        if e.workload
    )


def _attested(
    service: Service,
    workloads: Mapping[str, Workload],
    policies: PeerPolicies,
    accounts: tuple[Account, ...] | None,
) -> Service:
    marks = [
        not why_plaintext(e, service, workloads, policies) for e in service.endpoints
    ]
    endpoints = _labelled(service.endpoints, workloads)
    if any(marks):
        endpoints = _marked(endpoints, marks)
    if accounts is None:
        accounts = _accounts_of(endpoints)

    # Where there are records, the service stays meshed while its endpoints come and go, and so its
    # clusters stay.
    is_meshed = any(marks) or (bool(accounts) and not service.is_declared)
    if endpoints is service.endpoints and not accounts and not is_meshed:
        return service
    return replace(service, endpoints=endpoints, accounts=accounts, is_meshed=is_meshed)


def _marked(
    endpoints: Iterable[Endpoint], marks: Iterable[bool]
) -> tuple[Endpoint, ...]:
    return tuple(
        replace(e, takes_mtls=True) if takes_mtls else e
        for e, takes_mtls in zip(endpoints, marks, strict=True)
    )


def _accounts_of(endpoints: Iterable[Endpoint]) -> tuple[Account, ...]:
    given = {(e.namespace, e.service_account) for e in endpoints if e.service_account}
    return tuple(sorted(given))


def _labelled(
    endpoints: tuple[Endpoint, ...], workloads: Mapping[str, Workload]
) -> tuple[Endpoint, ...]:
    """With the labels of their workloads, which Consul does not know; what it says itself counts
    more.
    """
    found = tuple(
        replace(e, labels=MappingProxyType({**known.labels, **e.labels}))
        if (known := workloads.get(e.workload)) is not None
        and not known.labels.keys() <= e.labels.keys()
        else e
        for e in endpoints
    )
    return (
        endpoints
        if all(new is old for new, old in zip(found, endpoints, strict=True))
        else found
    )


def why_plaintext(
    endpoint: Endpoint,
    service: Service,
    workloads: Mapping[str, Workload],
    policies: PeerPolicies,
) -> str:
    """Why an endpoint is not called over mutual TLS by itself; empty if it is."""
    # In front of a named workload its record counts, and nothing that the endpoint says of itself.
    namespace, labels = endpoint.namespace, endpoint.labels
    if endpoint.workload:
        workload = workloads.get(endpoint.workload)
        if workload is None:
            return f"no workload {endpoint.workload} is attested"
        if workload.kind is WorkloadKind.GATEWAY:
            return "a gateway takes mutual TLS only where its Gateway says so"
        if not workload.captures(endpoint.port):
            return "the port is not captured"
        namespace, labels = workload.namespace, workload.labels
    # Without one, only a ServiceEntry can vouch for a proxy: it is config, which a registration is
    # not.
    elif not service.is_declared or TLS_MODE_LABEL not in labels:
        return "it has no proxy"

    if labels.get(TLS_MODE_LABEL, "istio") != "istio":
        return f"its label {TLS_MODE_LABEL} says so"
    if policies.modes(namespace, labels).of(endpoint.port) is MutualTlsMode.DISABLE:
        return "PeerAuthentication: DISABLE"
    return ""
