"""Which WasmPlugins are for a proxy, in the order in which they run.

Those of the root namespace are for all namespaces, with a selector, too. Within a phase the highest
priority runs first, then it goes by name and namespace. Source: Istio's *Wasm Plugin* reference and
`pilot/pkg/model/extensions.go`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from dockermesh.config.api.extensions import (
    PluginPhase,
    PluginType,
    TrafficMode,
    TrafficSelector,
    WasmPlugin,
)
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.modules import Module, source_of
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.visibility import Labels, as_labels
from dockermesh.translate.security.policies import applies

_LAST = -(2**31)
"""Where no priority is given: that of Istio."""


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    """A plugin with what is known of its module. Proxies get the very same objects.

    `refusal` is why proxies do not take what it says; `former` is then the one of before, whose
    code and settings run in its place, if there is one.
    """

    source: Resource[WasmPlugin]
    module: Module = field(repr=False)
    refusal: str = ""
    former: Plugin | None = field(default=None, repr=False)

    @property
    def spec(self) -> WasmPlugin:
        """What the user wants."""
        return self.source.spec

    @property
    def name(self) -> str:
        """Of the filter, as Istio's."""
        own = f"{self.source.namespace}.{self.source.name}"
        # Another filter: Envoy would go on to refuse listeners for the sake of the one that it
        # could not make.
        former = "~former" if self.former is not None else ""
        return f"extensions.istio.io/wasmplugin/{own}{former}"

    @property
    def running(self) -> Plugin:
        """Whose code runs, with whose settings."""
        return self.former or self

    def is_before(self, resource: Resource[WasmPlugin], module: Module) -> bool:
        """Whether the resource names another module by now, which nobody has tried to get yet."""
        return self.module is module and source_of(self.source) != source_of(resource)

    @property
    def is_http(self) -> bool:
        """Whether it sees requests, and not bytes."""
        return self.spec.type is not PluginType.NETWORK

    def takes(self, port: int, *, is_server: bool) -> bool:
        """Whether traffic at this port passes it; 0 is any port that nobody declared."""
        match = self.spec.match
        return not match or any(_matches(m, port, is_server=is_server) for m in match)

    def is_in(self, name: str, body: bytes) -> bool:
        """Whether an Envoy resource of this name and content has the plugin's filter."""
        return name == self.name or self.name.encode() in body

    def is_on(self, *, is_server: bool) -> bool:
        """Whether it sees that side of traffic at all."""
        match = self.spec.match
        return not match or any(_is_mode(m.mode, is_server=is_server) for m in match)


Plugins = tuple[Plugin, ...]
_ORDER = {
    phase: number
    for number, phase in enumerate(
        (
            PluginPhase.AUTHN,
            PluginPhase.AUTHZ,
            PluginPhase.STATS,
            PluginPhase.UNSPECIFIED_PHASE,
        )
    )
}


class PluginIndex:
    """The plugins of one generation of the config whose modules have been asked for."""

    def __init__(self, mesh: MeshState, before: PluginIndex | None = None) -> None:
        self._root = mesh.settings.root_namespace
        self._plugins: dict[str, list[Plugin]] = defaultdict(list)
        self._found: dict[tuple[str, Labels], Plugins] = {}
        self._known: dict[tuple[int, int], Plugin] = {}

        known = before._known if before is not None else {}
        earlier = {str(plugin.source): plugin for plugin in known.values()}
        for resource in sorted(mesh.config.wasm_plugins, key=_order):
            module = mesh.modules.get(str(resource))
            # One that nobody has tried to get yet is not in force yet.
            if module is None:
                continue
            # Until its own module was asked for, the one of before stays, code and settings: what
            # proxies refused of it would be news to them otherwise, and be taken for this one's.
            old = earlier.get(str(resource))
            if old is not None and old.is_before(resource, module):
                self._keep(old)
            else:
                key = id(resource), id(module)
                self._keep(known.get(key) or Plugin(resource, module))

    def _keep(self, plugin: Plugin) -> None:
        # Both are held by the plugin, so no other object has their ids.
        self._known[id(plugin.source), id(plugin.module)] = plugin
        self._plugins[plugin.source.namespace].append(plugin)

    @property
    def known(self) -> frozenset[Plugin]:
        """All of them."""
        return frozenset(self._known.values())

    def of(self, proxy: Proxy) -> Plugins:
        """What is for a proxy, in order."""
        if not self._known:
            return ()
        key = (proxy.namespace, as_labels(proxy.labels))
        found = self._found.get(key)
        if found is None:
            namespaces = dict.fromkeys((self._root, proxy.namespace))
            near = (p for n in namespaces for p in self._plugins.get(n, ()))
            chosen = (p for p in near if applies(p.source, proxy))
            found = tuple(sorted(chosen, key=lambda p: _order(p.source)))
            self._found[key] = found
        return found


def _order(resource: Resource[WasmPlugin]) -> tuple[int, int, str]:
    spec = resource.spec
    priority = spec.priority if spec.priority is not None else _LAST
    name = f"{resource.name}.{resource.namespace}"
    return _ORDER[spec.phase], -priority, name


def _matches(match: TrafficSelector, port: int, *, is_server: bool) -> bool:
    numbers = {p.number for p in match.ports}
    is_there = not numbers or (port != 0 and port in numbers)
    return is_there and _is_mode(match.mode, is_server=is_server)


def _is_mode(mode: TrafficMode, *, is_server: bool) -> bool:
    one_sided = TrafficMode.SERVER if is_server else TrafficMode.CLIENT
    return mode in (TrafficMode.UNDEFINED, TrafficMode.CLIENT_AND_SERVER, one_sided)
