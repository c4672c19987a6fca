"""The files of RateLimitConfigs as limits, and by what name proxies call the limiter for these.

In the place of `envoyproxy/ratelimit`: patches of EnvoyFilters call
`ratelimit.<namespace>.svc.cluster.local`, port 8081, and what a RateLimitConfig of that namespace
says counts. Where the mesh has a service of that name, it is meant. Nothing else than Envoy finds
the limiter by it, as no DNS server knows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dockermesh.config.api.rate_limit_config import (
    FileDescriptor,
    LimitFile,
    RateLimitConfig,
)
from dockermesh.config.resource import Resource
from dockermesh.config.rules.rate_limit_config import read_limit_file
from dockermesh.model.contract import CLUSTER_DOMAIN, LIMITER_PORT
from dockermesh.model.rate_limits import (
    CountedLimit,
    LimitDomains,
    LimitNode,
    Per,
    Rate,
)
from dockermesh.translate.envoy.names import outbound_cluster

_CALLED = re.compile(
    rb"ratelimit\.([a-z0-9]([-a-z0-9]*[a-z0-9])?)\."
    + re.escape(CLUSTER_DOMAIN).encode()
)


def called_in(body: bytes) -> frozenset[str]:
    """The names by which a piece of Envoy's configuration calls the limiter."""
    return frozenset(found[0].decode() for found in _CALLED.finditer(body))


def name_called(namespace: str) -> str:
    """The name for what a namespace says."""
    return f"ratelimit.{namespace}.{CLUSTER_DOMAIN}"


def cluster_called(name: str) -> str:
    """The cluster that Istio would make of it."""
    return outbound_cluster(name, LIMITER_PORT)


def domains_of_files(configs: Iterable[Resource[RateLimitConfig]]) -> LimitDomains:
    """What the files say; of a domain that is there twice the oldest counts."""
    found: dict[tuple[str, str], LimitNode] = {}
    for resource in configs:
        for text in resource.spec.files.values():
            file = read_limit_file(text)
            if file is not None:
                place = (name_called(resource.namespace), file.domain)
                found.setdefault(place, domain_of_file(file))
    return found


def domain_of_file(file: LimitFile) -> LimitNode:
    """What one file says."""
    return _node(file.domain, None, file.descriptors)


def _node(
    path: str, limit: CountedLimit | None, descriptors: Iterable[FileDescriptor]
) -> LimitNode:
    exact: dict[tuple[str, str], LimitNode] = {}
    prefixes: list[tuple[str, str, LimitNode]] = []
    any_value: dict[str, LimitNode] = {}
    for each in descriptors:
        own = f"{path}.{each.key}" + (f"_{each.value}" if each.value else "")
        node = _node(own, _limit(own, each), each.descriptors)
        if not each.value:
            any_value[each.key] = node
        elif each.value.endswith("*"):
            prefixes.append((each.key, each.value[:-1], node))
        else:
            exact[each.key, each.value] = node
    longest_first = sorted(prefixes, key=lambda entry: -len(entry[1]))
    return LimitNode(limit, exact, tuple(longest_first), any_value)


def _limit(path: str, descriptor: FileDescriptor) -> CountedLimit | None:
    said = descriptor.rate_limit
    if said is None:
        return None
    amount = said.requests_per_unit
    rate = None if said.unlimited else Rate(amount, Per[said.unit.upper()], amount)
    return CountedLimit(
        said.name or path,
        rate,
        shadow=descriptor.shadow_mode,
        # Of a value that is exact there is one bucket anyway.
        shared=descriptor.share_threshold,
        detailed=descriptor.detailed_metric,
        replaces=tuple(each.name for each in said.replaces),
    )
