"""Which Telemetry resources are for a proxy: that of the mesh, that of its namespace, and the one
that selects it.

Of each level the oldest counts; a lower level refines the ones above it. Source: Istio's
*Telemetry* reference and `pilot/pkg/model/telemetry.go`.
"""

from __future__ import annotations

from collections import defaultdict

from dockermesh.config.api.telemetry import Telemetry
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.security.policies import applies

Levels = tuple[Resource[Telemetry], ...]
"""The resources for one proxy, the widest first."""


class TelemetryIndex:
    """The Telemetry resources of one generation of the config."""

    def __init__(self, config: IstioConfig, root_namespace: str) -> None:
        self._root = root_namespace
        self._wide: dict[str, Resource[Telemetry]] = {}
        self._narrow: dict[str, list[Resource[Telemetry]]] = defaultdict(list)

        for resource in config.telemetries:
            if is_namespace_wide(resource.spec):
                self._wide.setdefault(resource.namespace, resource)
            else:
                self._narrow[resource.namespace].append(resource)

    def of(self, proxy: Proxy) -> Levels:
        """What is for a proxy."""
        namespaces = dict.fromkeys((self._root, proxy.namespace))
        found = [self._wide[name] for name in namespaces if name in self._wide]
        own = (r for r in self._narrow.get(proxy.namespace, ()) if applies(r, proxy))
        first = next(own, None)
        return (*found, first) if first is not None else tuple(found)


def is_namespace_wide(spec: Telemetry) -> bool:
    """Whether it is for a whole namespace; in the root namespace, for the mesh."""
    is_selecting = spec.selector is not None and bool(spec.selector.match_labels)
    return not (is_selecting or spec.target_refs or spec.target_ref is not None)
