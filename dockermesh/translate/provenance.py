"""Which of Istio's resources an Envoy resource of a proxy was made of.

What is in its bytes is told from them: the origins that routes and clusters carry for Istio's
tools, the names of rules of policies. The rest follows from which resources concern the proxy at
all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dockermesh.config.resource import Resource
from dockermesh.model import WorkloadKind
from dockermesh.translate.envoy.claims import JWT_FILTER
from dockermesh.translate.envoy.origin import origin
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.mesh.visibility import selects
from dockermesh.translate.security.limit_actions import filter_name
from dockermesh.translate.security.policies import Policies
from dockermesh.translate.security.rate_limits import NO_LIMITS, Limits
from dockermesh.translate.tls.secrets import named_credential
from dockermesh.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET

_ORIGIN = re.compile(rb"/apis/[a-z.]+/v1/namespaces/[a-z0-9.-]+/[a-z-]+/[a-z0-9.-]+")
_POLICY = re.compile(rb"ns\[([^\]]+)\]-policy\[([^\]]+)\]-rule\[")


@dataclass(frozen=True, slots=True)
class Sources:
    """Resources as `Kind namespace/name`: those that are in it for certain, and those that may
    be.
    """

    certain: frozenset[str] = frozenset()
    possible: frozenset[str] = frozenset()

    def __or__(self, other: Sources) -> Sources:
        return Sources(self.certain | other.certain, self.possible | other.possible)


def sources_of(
    type_url: str,
    name: str,
    body: bytes,
    proxy: Proxy,
    config: IstioConfig,
    policies: Policies,
    limits: Limits = NO_LIMITS,
) -> Sources:
    """What one Envoy resource of a proxy was made of, beside EnvoyFilters."""
    certain = {
        *_noted(body, config),
        *_policies(body, policies),
        *_limits(body, limits),
        *_gateways(type_url, name, proxy, config),
        *_service_entries(type_url, name, config),
    }
    return Sources(frozenset(certain), frozenset(_concerning(type_url, proxy, config)))


def _noted(body: bytes, config: IstioConfig) -> Iterator[str]:
    known = {
        origin(r).encode(): str(r)
        for r in (*config.virtual_services, *config.destination_rules)
    }
    for match in _ORIGIN.finditer(body):
        text = match[0]
        # What follows the text in a message may look like more of it.
        while text and text not in known:
            text = text[:-1]
        if text:
            yield known[text]


def _policies(body: bytes, policies: Policies) -> Iterator[str]:
    for namespace, name in _POLICY.findall(body):
        yield f"AuthorizationPolicy {namespace.decode()}/{name.decode()}"
    if JWT_FILTER.encode() in body:
        yield from (str(policy) for policy in policies.authentications)


def _limits(body: bytes, limits: Limits) -> Iterator[str]:
    for resource in limits.resources:
        if filter_name(resource).encode() in body:
            yield str(resource)


def _gateways(
    type_url: str, name: str, proxy: Proxy, config: IstioConfig
) -> Iterator[str]:
    for gateway in config.gateways:
        for server in gateway.spec.servers:
            if type_url == SECRET:
                tls = server.tls
                names = (tls.credential_name, *tls.credential_names) if tls else ()
                wanted = named_credential(name).removesuffix("-cacert")
                if wanted and wanted in names:
                    yield str(gateway)
            elif (
                type_url in (LISTENER, ROUTES)
                and proxy.kind is WorkloadKind.GATEWAY
                and server.port is not None
                and selects(gateway.spec.selector, proxy.labels)
                and re.search(rf"\b{server.port.number}\b", name.replace("_", " "))
            ):
                yield str(gateway)


def _service_entries(type_url: str, name: str, config: IstioConfig) -> Iterator[str]:
    if type_url not in (CLUSTER, ENDPOINTS):
        return
    host = name.rpartition("|")[2]
    for entry in config.service_entries:
        if host in entry.spec.hosts:
            yield str(entry)


def _concerning(type_url: str, proxy: Proxy, config: IstioConfig) -> Iterator[str]:
    """What leaves no name behind where it has an effect."""
    listed: Iterable[Resource[Any]] = config.mesh_configs
    yield from map(str, listed)
    if type_url not in (LISTENER, CLUSTER):
        return
    for resource in (*config.peer_authentications, *config.sidecars):
        if proxy.kind is WorkloadKind.SIDECAR:
            yield str(resource)
    # Their routes of connections are filters of listeners, which have no place for an origin.
    for rule in config.virtual_services:
        if rule.spec.tcp or rule.spec.tls:
            yield str(rule)
    yield from map(str, config.service_entries)
