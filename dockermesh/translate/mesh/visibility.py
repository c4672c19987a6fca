"""Who may see what: `exportTo`, and the hosts that a Sidecar lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from dockermesh.config.api.sidecar import EXCLUDED, IstioEgressListener, Sidecar
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
    something depends on them. `at_node`: the proxy serves others, too, so that what it has names
    whose it is.
    """

    namespace: str = "default"
    sidecar: Resource[Sidecar] | None = field(default=None, hash=False)
    selectors: frozenset[Labels] = frozenset()
    locality: str = ""
    labels: Labels = ()
    has_certificate: bool = True
    project: str = ""
    at_node: bool = False

    @property
    def view(self) -> str:
        """What tells this scope from others whose resources are in one proxy; empty for a proxy
        that has only one.
        """
        if not self.at_node:
            return ""
        narrow = (
            str(self.sidecar) if self.sidecar is not None else "",
            sorted(self.selectors),
            self.locality,
            self.labels,
        )
        name = f"{self.namespace}.{self.project}"
        if not any(narrow):
            return name
        return f"{name}.{blake2b(repr(narrow).encode(), digest_size=4).hexdigest()}"

    def table(self, name: str) -> str:
        """What a route table of this scope is called, of which another may have its own."""
        return f"{self.view}/{name}" if self.at_node else name

    def carries(self, labels: Mapping[str, str]) -> bool:
        """Whether the proxy fulfils a selector."""
        return not labels or as_labels(labels) in self.selectors

    def imports(self, namespace: str, hosts: Iterable[str], port: int = 0) -> bool:
        """Whether the Sidecar lets the proxy see something of this namespace with these hosts (on
        this port).
        """
        listeners = self._listeners(port)
        if listeners is None:
            return True

        names = tuple(hosts)
        return any(
            _lists(listener, namespace, names, self.namespace)
            and not _excludes(listener, namespace, names, self.namespace)
            for listener in listeners
        )

    def excludes(self, namespace: str, hosts: Iterable[str]) -> bool:
        """Whether the Sidecar takes a host (under any of these names) out wherever it lists
        hosts.
        """
        names = tuple(hosts)
        return all(
            _excludes(listener, namespace, names, self.namespace)
            for listener in self._listeners() or (IstioEgressListener(),)
        )

    def _listeners(self, port: int = 0) -> tuple[IstioEgressListener, ...] | None:
        """The listeners that decide about a port, or all of them; None: all may be seen."""
        if self.sidecar is None or not self.sidecar.spec.egress:
            return None
        listeners = self.sidecar.spec.egress
        return _on_port(listeners, port) if port else listeners


def _on_port(
    listeners: tuple[IstioEgressListener, ...], port: int
) -> tuple[IstioEgressListener, ...]:
    # A listener with a port decides alone about that port: what others list is not added.
    own = [e for e in listeners if e.port is not None and e.port.number == port]
    return tuple(own or (e for e in listeners if e.port is None))


def _lists(
    listener: IstioEgressListener, namespace: str, names: tuple[str, ...], own: str
) -> bool:
    # Either may be a wildcard, the Sidecar's pattern or the host of a ServiceEntry or rule.
    return any(
        _is_namespace(scope, namespace, own)
        and (matches(pattern, name) or matches(name, pattern))
        for scope, _, pattern in (text.partition("/") for text in listener.hosts)
        for name in names
    )


def _excludes(
    listener: IstioEgressListener, namespace: str, names: tuple[str, ...], own: str
) -> bool:
    """Whether an entry such as `~prod/*` takes the host out; `~/a.example` does everywhere."""
    entries = (
        text.removeprefix(EXCLUDED).partition("/")
        for text in listener.hosts
        if text.startswith(EXCLUDED)
    )
    return any(
        _is_namespace(scope or "*", namespace, own) and matches(pattern, name)
        for scope, _, pattern in entries
        for name in names
    )


def _is_namespace(pattern: str, namespace: str, own: str) -> bool:
    return pattern in {"*", namespace} or (pattern == "." and namespace == own)
