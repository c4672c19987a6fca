"""The listeners of proxies with their plugins, made of those without.

Order, as Istio's: external authorizers, AUTHN, tokens, AUTHZ, policies, STATS, the others. Where a
listener judges nothing, which is so for all that an app calls, that leaves the order of the phases.

Invariant: who has no plugin keeps the very same snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf import any_pb2

from dockermesh.config.api.extensions import PluginPhase
from dockermesh.translate.envoy.claims import JWT_FILTER
from dockermesh.translate.envoy.connection_manager import put_in_order
from dockermesh.translate.envoy.names import (
    NOT_OF_APPS,
    VIRTUAL_INBOUND,
    VIRTUAL_OUTBOUND,
)
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.envoy.rewriting import Rewriting
from dockermesh.translate.extensions.filters import (
    extension,
    http_placeholder,
    is_fixed,
    network_placeholder,
)
from dockermesh.translate.extensions.plugins import Plugin, PluginIndex, Plugins
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.security.policies import (
    HTTP_EXT_AUTHZ,
    HTTP_RBAC,
    TCP_EXT_AUTHZ,
    TCP_RBAC,
)
from dockermesh.translate.security.scripts import LUA
from dockermesh.xds.protobuf import serialised
from dockermesh.xds.resources import LISTENER, Resource, make_resource
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_HTTP = hcm_pb2.HttpConnectionManager.DESCRIPTOR.full_name
_PLACES = {PluginPhase.AUTHN: 0, PluginPhase.AUTHZ: 1}
_LAST_PLACE = 2


class ExtensionLayer:
    """Adds to snapshots the plugins of one generation of the config."""

    def __init__(
        self, mesh: MeshState | None = None, before: ExtensionLayer | None = None
    ) -> None:
        """`before` is the layer of the config before, whose work is gone on with."""
        earlier = before._index if before is not None else None
        self._index: PluginIndex = PluginIndex(mesh or MeshState(), earlier)
        self._rewritten: Rewriting[Plugins, Plugins] = (
            before._rewritten if before is not None else Rewriting(_part_of, _with)
        )
        self._extensions: dict[Plugin, Resource] = (
            before._extensions if before is not None else {}
        )
        self._formers: dict[str, Plugin] = {}
        self._instead: dict[Plugin, Plugin] = {}
        if before is not None:
            self._follow(before)
        self._sets: dict[tuple[ResourceSet, Plugins], ResourceSet] = {}
        self._snapshots: dict[tuple[Snapshot, Plugins], Snapshot] = {}

    def forget(self) -> None:
        """Let go of what is of no use any more."""
        self._snapshots.clear()
        self._sets.clear()
        known = {self._instead.get(plugin, plugin) for plugin in self._index.known}
        self._extensions = {p: r for p, r in self._extensions.items() if p in known}
        self._rewritten.forget()

    def plugins(self, proxy: Proxy) -> Plugins:
        """The plugins for a proxy, in order."""
        return tuple(self._instead.get(p, p) for p in self._index.of(proxy))

    def refused(self) -> Iterator[Plugin]:
        """Those of which proxies did not take what they say."""
        return iter(self._instead.values())

    def distrust(self, reason: str) -> bool:
        """A proxy has refused something: leave out the plugins that its reason names.

        Returns whether that changes what proxies are told.
        """
        changed = False
        for plugin in self._index.known:
            told = self._instead.get(plugin, plugin)
            if is_fixed(told) or not _is_named(told.name, reason):
                continue
            former = self._formers.get(plugin.name) if told is plugin else None
            self._instead[plugin] = Plugin(
                plugin.source, plugin.module, reason[:500], former
            )
            changed = True

        if changed:
            self._sets.clear()
            self._snapshots.clear()
        return changed

    def _follow(self, before: ExtensionLayer) -> None:
        """What stays of refusals, and which plugins those of now have replaced."""
        known = self._index.known
        self._instead = {p: i for p, i in before._instead.items() if p in known}
        names = {plugin.name for plugin in known}
        replaced = {
            p.name: p
            for p in before._index.known - known
            if p.module.content and p not in before._instead
        }
        formers = {**before._formers, **replaced}
        self._formers = {n: p for n, p in formers.items() if n in names}

    def apply(self, plain: Snapshot, proxy: Proxy) -> Snapshot:
        """The proxy's snapshot, with its plugins."""
        plugins = self.plugins(proxy)
        if not plugins:
            return plain
        found = self._snapshots.get((plain, plugins))
        if found is None:
            found = self._snapshots[plain, plugins] = plain.with_own(
                plain.clusters, self._rewritten(plain.listeners, plugins)
            ).with_extensions(self._set(plain.extensions, plugins))
        return found

    def _set(self, plain: ResourceSet, plugins: Plugins) -> ResourceSet:
        found = self._sets.get((plain, plugins))
        if found is None:
            own = [self._extension(p) for p in plugins if not is_fixed(p)]
            found = self._sets[plain, plugins] = ResourceSet(own, base=plain)
        return found

    def _extension(self, plugin: Plugin) -> Resource:
        found = self._extensions.get(plugin)
        if found is None:
            found = self._extensions[plugin] = extension(plugin)
        return found


def _is_named(name: str, reason: str) -> bool:
    # No other plugin's name may begin with it.
    return re.search(rf"{re.escape(name)}(?![\w.~-])", reason) is not None


def _part_of(plain: Resource, plugins: Plugins) -> Plugins | None:
    """The plugins that a listener may have."""
    if plain.name in NOT_OF_APPS:
        return None
    is_server = plain.name == VIRTUAL_INBOUND
    return tuple(p for p in plugins if p.is_on(is_server=is_server)) or None


def _with(plain: Resource, plugins: Plugins) -> Resource:
    listener = listener_pb2.Listener()
    any_pb2.Any.FromString(plain.any_bytes).Unpack(listener)
    is_server = listener.name == VIRTUAL_INBOUND
    is_any = listener.name == VIRTUAL_OUTBOUND
    own = 0 if is_any else listener.address.socket_address.port_value

    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)
    is_changed = False
    for chain in chains:
        port = chain.filter_chain_match.destination_port.value if is_server else own
        taken = [p for p in plugins if p.takes(port, is_server=is_server)]
        is_changed = _extend(chain, taken) or is_changed

    if not is_changed:
        return plain
    return make_resource(LISTENER, plain.name, serialised(listener))


def _extend(chain: Any, plugins: Sequence[Plugin]) -> bool:
    """Returns whether the chain has any of the plugins now."""
    of_requests = [p for p in plugins if p.is_http]
    of_bytes = [p for p in plugins if not p.is_http]
    is_changed = bool(of_bytes)

    for part in chain.filters:
        if of_requests and part.typed_config.TypeName() == _HTTP:
            manager = hcm_pb2.HttpConnectionManager()
            part.typed_config.Unpack(manager)
            places = _http_places([f.name for f in manager.http_filters])
            _insert(manager.http_filters, of_requests, places, http_placeholder)
            # They may judge by what a request says, as a policy does.
            put_in_order(manager)
            part.typed_config.CopyFrom(pack(manager))
            is_changed = True

    if of_bytes:
        places = _network_places([f.name for f in chain.filters])
        _insert(chain.filters, of_bytes, places, network_placeholder)
    return is_changed


def _insert(
    filters: Any,
    plugins: Sequence[Plugin],
    places: tuple[int, int, int],
    make: Callable[[Plugin], Any],
) -> None:
    # In the order of their phases: from the last place to the first, which so stays where it was.
    for plugin in reversed(plugins):
        place = places[_PLACES.get(plugin.spec.phase, _LAST_PLACE)]
        filters.insert(place, make(plugin))


def _http_places(names: Sequence[str]) -> tuple[int, int, int]:
    """Before which filters plugins of AUTHN, of AUTHZ and all others go."""
    first = _after(names, HTTP_EXT_AUTHZ, 0)
    # Scripts stand around the filters of tokens and policies, and belong to them.
    second = _past_script(names, _after(names, JWT_FILTER, first), first)
    third = _past_script(names, _after(names, HTTP_RBAC, second), second)
    return first, second, third


def _network_places(names: Sequence[str]) -> tuple[int, int, int]:
    first = _after(names, TCP_EXT_AUTHZ, 0)
    return first, first, _after(names, TCP_RBAC, first)


def _after(names: Sequence[str], name: str, start: int) -> int:
    """The place behind the last filter of this name; `start` without one."""
    places = [n + 1 for n, found in enumerate(names) if found == name and n >= start]
    return places[-1] if places else start


def _past_script(names: Sequence[str], place: int, start: int) -> int:
    is_script = place > start and names[place : place + 1] == [LUA]
    return place + 1 if is_script else place
