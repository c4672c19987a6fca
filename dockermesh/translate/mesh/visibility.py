"""Who may see what: `exportTo`, and the hosts that a Sidecar lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dockermesh.config.api.sidecar import IstioEgressListener, Sidecar
from dockermesh.config.hosts import matches
from dockermesh.config.resource import Resource
from dockermesh.model import Service

Labels = tuple[tuple[str, str], ...]


def is_exported(export_to: Iterable[str], owner: str, viewer: str) -> bool:
    """Whether namespace `viewer` may see what `owner` exports; nothing said means everywhere."""
    listed = tuple(export_to)
    if not listed:
        return True
    # `~` is nobody, the owner's own namespace included.
    if "~" in listed:
        return False
    return "*" in listed or viewer in listed or ("." in listed and owner == viewer)


def is_visible(service: Service, viewer: str, default: tuple[str, ...]) -> bool:
    """Whether namespace `viewer` may see the service; `default` is the mesh's own setting."""
    # The default is for ServiceEntries: a service of a registry has no `exportTo` by which it could
    # say otherwise, and its callers would lose it.
    export = service.export_to or (default if service.is_declared else ())
    return is_exported(export, service.namespace, viewer)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there; an empty selector selects everything."""
    return all(labels.get(key) == value for key, value in selector.items())


def as_labels(labels: Mapping[str, str]) -> Labels:
    """Labels as a value that can be a key."""
    return tuple(sorted(labels.items()))


@dataclass(frozen=True, slots=True)
class Scope:
    """What decides about everything that a sidecar gets beside its inbound ports.

    Proxies in equal scopes share all those resources. `selectors` are the label selectors of the
    config that the proxy fulfils; `locality`, `labels` and `project` (Compose's) are only there if
    something depends on them.
    """

    namespace: str = "default"
    sidecar: Resource[Sidecar] | None = field(default=None, hash=False)
    selectors: frozenset[Labels] = frozenset()
    locality: str = ""
    labels: Labels = ()
    has_certificate: bool = True
    project: str = ""

    def carries(self, labels: Mapping[str, str]) -> bool:
        """Whether the proxy fulfils a selector."""
        return not labels or as_labels(labels) in self.selectors

    def imports(self, namespace: str, hosts: Iterable[str], port: int = 0) -> bool:
        """Whether the Sidecar lets the proxy see something of this namespace with these hosts (on
        this port).
        """
        patterns = self.egress_hosts(port)
        if patterns is None:
            return True
        # Either may be a wildcard, the Sidecar's pattern or the host of a ServiceEntry or rule.
        return any(
            _is_namespace(scope, namespace, self.namespace)
            and (matches(pattern, host) or matches(host, pattern))
            for scope, pattern in patterns
            for host in hosts
        )

    def egress_hosts(self, port: int = 0) -> list[tuple[str, str]] | None:
        """The pairs of namespace and host that may be seen; None: all. With a port, those of its
        own listener.
        """
        if self.sidecar is None or not self.sidecar.spec.egress:
            return None
        listeners = self.sidecar.spec.egress
        if port:
            listeners = _on_port(listeners, port)

        pairs = (text.partition("/") for egress in listeners for text in egress.hosts)
        return [(scope, pattern) for scope, _, pattern in pairs]


def _on_port(
    listeners: tuple[IstioEgressListener, ...], port: int
) -> tuple[IstioEgressListener, ...]:
    # A listener with a port decides alone about that port: what others list is not added.
    own = [e for e in listeners if e.port is not None and e.port.number == port]
    return tuple(own or (e for e in listeners if e.port is None))


def _is_namespace(pattern: str, namespace: str, own: str) -> bool:
    return pattern in {"*", namespace} or (pattern == "." and namespace == own)
