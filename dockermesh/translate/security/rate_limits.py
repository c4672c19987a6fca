"""The RateLimits that select one workload.

Invariant: `Limits` is a value that can be a key, as `Policies` is; proxies that nothing limits have
`NO_LIMITS`, and get the same bytes as if there were no limit in the mesh.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dockermesh.config.api.rate_limit import RateLimit
from dockermesh.config.resource import Resource
from dockermesh.model import Workload
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.visibility import as_labels

_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
ALL_PORTS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Limits:
    """What limits one workload, oldest first: each with the ports that it is for (none: all)."""

    names: tuple[str, ...] = ()
    ports: tuple[frozenset[int], ...] = ()
    resources: tuple[Resource[RateLimit], ...] = field(default=(), hash=False)

    def on(self, port: int) -> list[Resource[RateLimit]]:
        """What limits one port."""
        return [
            resource
            for resource, ports in zip(self.resources, self.ports, strict=True)
            if not ports or port in ports
        ]


NO_LIMITS = Limits()


class LimitIndex:
    """The RateLimits of one generation of the config, by namespace and by one of the labels that
    they ask for.
    """

    def __init__(self, mesh: MeshState) -> None:
        self._limits = mesh.config.rate_limits
        self._root = mesh.settings.root_namespace
        self._by_label: dict[tuple[str, tuple[str, str] | None], list[int]] = (
            defaultdict(list)
        )
        for number, limit in enumerate(self._limits):
            selector = limit.spec.selector
            label = (
                next(iter(selector.match_labels.items()), None)
                if selector is not None
                else None
            )
            self._by_label[limit.namespace, label].append(number)

        # Replicas get the very same object, so that keys with it are compared by identity.
        self._found: dict[tuple[object, ...], Limits] = {}

    def of(self, proxy: Proxy) -> Limits:
        """What limits a proxy."""
        if not self._limits:
            return NO_LIMITS
        key = (proxy.namespace, as_labels(proxy.labels), _served(proxy.workload))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._select(proxy)
        return found

    def _select(self, proxy: Proxy) -> Limits:
        served = _served(proxy.workload)
        asked = (
            (limit, _ports(limit, proxy.namespace, proxy.labels, served))
            for limit in self._near(proxy)
        )
        chosen = [(limit, ports) for limit, ports in asked if ports is not None]
        if not chosen:
            return NO_LIMITS
        return Limits(
            names=tuple(str(limit) for limit, _ in chosen),
            ports=tuple(ports for _, ports in chosen),
            resources=tuple(limit for limit, _ in chosen),
        )

    def _near(self, proxy: Proxy) -> Iterator[Resource[RateLimit]]:
        """Those of the proxy's namespaces with one of its labels, or none; in their order."""
        labels = (None, *proxy.labels.items())
        namespaces = (self._root, proxy.namespace)
        keys = ((namespace, label) for namespace in namespaces for label in labels)
        numbers = {number for key in keys for number in self._by_label.get(key, ())}
        return (self._limits[number] for number in sorted(numbers))


def finds_nobody(
    limit: Resource[RateLimit], workloads: Iterable[Workload], root: str
) -> bool:
    """Whether a RateLimit is for none of these workloads. One for the whole mesh is right in an
    empty one, too.
    """
    spec = limit.spec
    if spec.selector is None and not spec.target_refs and limit.namespace == root:
        return False
    reached = (w for w in workloads if limit.namespace in (root, w.namespace))
    return all(
        _ports(limit, w.namespace, w.labels, _served(w)) is None for w in reached
    )


def _served(workload: Workload | None) -> tuple[tuple[str, int], ...]:
    """The services of a workload and their ports."""
    if workload is None:
        return ()
    return tuple(sorted({(p.service, p.port) for p in workload.ports}))


def _ports(
    limit: Resource[RateLimit],
    namespace: str,
    labels: Mapping[str, str],
    served: Iterable[tuple[str, int]],
) -> frozenset[int] | None:
    """The ports that it is for, of a workload in its reach; None if it is not for this one."""
    spec = limit.spec
    if not spec.target_refs:
        wanted = spec.selector.match_labels if spec.selector is not None else {}
        return ALL_PORTS if labels.items() >= wanted.items() else None

    if limit.namespace != namespace:
        return None
    gateway = labels.get(_GATEWAY_NAME)
    if any(t.kind == "Gateway" and t.name == gateway for t in spec.target_refs):
        return ALL_PORTS
    services = {t.name for t in spec.target_refs if t.kind == "Service"}
    return frozenset(p for s, p in served if s in services) or None
