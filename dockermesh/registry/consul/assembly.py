"""The services of the mesh from those of Consul, kept up to date one Consul service at a time.

Invariant: a service that did not change stays the same object. Besides a service per Consul name
there is one per Compose service whose name Consul does not have (registrator calls `web` with two
ports `web-80` and `web-443`), so that apps can use Compose's names; it unites the endpoints of all
Consul services that belong to it. Where Consul has the name from a Compose service that is called
so, another project's ports join it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from dockermesh.model.service import Service
from dockermesh.registry.accept import OWN_SERVICE
from dockermesh.registry.consul.convert import Instance, build_service

Instances = tuple[Instance, ...]


class Assembly:
    """Instances by Consul service in, services by hostname (below `domain`) out."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._instances: dict[str, Instances] = {}
        # Host names know no case, Consul's names do.
        self._by_lower: dict[str, str] = {}
        self._contributors: dict[str, set[str]] = {}
        self._services: dict[str, Service] = {}

    def services(self) -> Mapping[str, Service]:
        """A copy that no later update changes."""
        return MappingProxyType(dict(self._services))

    def instances(self) -> Mapping[str, Instances]:
        """A copy of what was put, by Consul service."""
        return MappingProxyType(dict(self._instances))

    def put(self, name: str, instances: Instances) -> bool:
        """Take over the instances of the Consul service `name` (none: it is gone); True if any
        service changed.
        """
        previous = self._instances.pop(name, ())
        self._by_lower.pop(name.lower(), None)
        if instances:
            self._instances[name] = instances
            self._by_lower[name.lower()] = name

        # The service itself, and each that unites instances of several Consul services.
        touched = {name.lower()}
        for compose in _compose_services(previous):
            self._contributors.get(compose, set()).discard(name)
            touched.add(compose)

        for compose in _compose_services(instances):
            self._contributors.setdefault(compose, set()).add(name)
            touched.add(compose)

        # No short cut by any(): every touched name must be rebuilt.
        return sum([self._rebuild(t) for t in touched]) > 0

    def _rebuild(self, key: str) -> bool:
        name, instances = self._source(key)
        hostname = f"{key}.{self._domain}".lower()
        old = self._services.get(hostname)
        if not instances:
            self._services.pop(hostname, None)
            return old is not None
        new = build_service(name, instances, domain=self._domain, previous=old)
        self._services[hostname] = new
        return new is not old

    def _source(self, key: str) -> tuple[str, list[Instance]]:
        own = self._by_lower.get(key)
        contributors = self._contributors.get(key, set())
        if not contributors:
            self._contributors.pop(key, None)

        if own is not None and own not in contributors:
            # Consul's own service of this name goes before one that would be put together.
            return own, list(self._instances[own])
        found = [
            i
            for name in sorted(contributors)
            for i in self._instances[name]
            if i.compose_service.lower() == key
            # Of two projects' `web` registrator calls one `web-80` that has several ports: it must
            # not lose them when another comes that has one. What SERVICE_NAME says stays apart.
            and (own in {None, name} or name.lower() == f"{key}-{i.endpoint.port}")
        ]
        strangers = self._instances[own] if own is not None else ()
        return own or key, [
            *found,
            *(i for i in strangers if i.compose_service.lower() != key),
        ]


def _compose_services(instances: Iterable[Instance]) -> set[str]:
    names = {i.compose_service.lower() for i in instances if i.compose_service}
    return names - {OWN_SERVICE}
