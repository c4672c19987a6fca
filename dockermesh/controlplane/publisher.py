"""What is known of the mesh, translated, and given to proxies.

    catalog ─┐
    config  ─┼─> MeshState ─> Translator ─> a snapshot per proxy ─> XdsServers
    keys    ─┘                     ^                                    │
                                   └────────────── refusals ────────────┘

Invariants: nothing is given before catalog and config were read once, so a restarted control plane
never sends a proxy less than it has. A fault of ours leaves proxies with what they have.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import structlog

from dockermesh.controlplane.blame import Blame, refused_names
from dockermesh.controlplane.config_reader import ConfigReader, RefusedResource
from dockermesh.controlplane.pacing import Paced
from dockermesh.controlplane.trust.gateway_credentials import GatewayCredentials
from dockermesh.controlplane.trust.node_secrets import NodeSecrets
from dockermesh.controlplane.trust.workload_secrets import Recipient, WorkloadSecrets
from dockermesh.controlplane.updates import Updates
from dockermesh.controlplane.xds_servers import XdsServers
from dockermesh.model import EMPTY_CATALOG, Catalog, Refusal, WorkloadKind
from dockermesh.model.canonical import facts_of
from dockermesh.registry import StoredResource
from dockermesh.runtime.repeats import Repeats
from dockermesh.translate.mesh.known_proxies import (
    anonymous_proxy,
    proxy_of,
    workloads_at,
)
from dockermesh.translate.mesh.modules import Module, ModuleSource, wanted_modules
from dockermesh.translate.mesh.ownership import given_way, refusals
from dockermesh.translate.mesh.settings import IstioConfig, MeshSettings
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.security.jwt import wanted_keys
from dockermesh.translate.translator import Translator
from dockermesh.xds import ConnectedProxy, Nack, Snapshot
from dockermesh.xds.server import Authorize
from dockermesh.xds.timings import Changes

log = structlog.get_logger(__name__)
Stored = Mapping[str, StoredResource]


class ModuleStore(Protocol):
    """Where modules of plugins come from."""

    @property
    def known(self) -> Mapping[str, Module]:
        """What is known, by plugin."""

    @property
    def is_settled(self) -> bool:
        """Whether each that is wanted was tried once."""

    def want(self, sources: Mapping[str, ModuleSource]) -> None:
        """The sources from now on, by plugin."""


class _NoModules:
    """None are to be had."""

    known: Mapping[str, Module] = MappingProxyType({})
    is_settled = True

    def want(self, sources: Mapping[str, ModuleSource]) -> None:
        pass


class Publisher:
    """Translates when something changed, and answers what each proxy is to have.

    `want_keys` is told which key sets of token issuers the config needs, with the time limit of
    each in seconds; `on_mesh` is told each new state; `modules` has those of plugins. `seal_of`
    tells with what password a workload's proxy may keep its keys.
    """

    def __init__(
        self,
        settings: MeshSettings,
        authorize: Authorize,
        want_keys: Callable[[Mapping[str, float]], None],
        repeats: Repeats | None = None,
        seal_of: Callable[[str], str] = lambda workload: "",
        on_mesh: Callable[[MeshState], None] = lambda mesh: None,
        modules: ModuleStore | None = None,
    ) -> None:
        self.servers = XdsServers(authorize, self._take_refusal, repeats)
        self.blame = Blame(self.servers.attested.refusals)
        self.translator = Translator()
        self.served_from: Stored = {}
        self.updates = Updates()
        self._settings = settings
        self._seal_of = seal_of
        self._want_keys = want_keys
        self._on_mesh = on_mesh
        self._modules = modules or _NoModules()
        self._has_served = False
        self._reader = ConfigReader()
        self._catalog: Catalog | None = None
        self._config: Stored | None = None
        self._keys: Mapping[str, str] = {}
        self._anonymous: dict[str, Proxy] = {}
        self._refused: frozenset[str] = frozenset()
        self._secrets: WorkloadSecrets | None = None
        self._credentials: GatewayCredentials | None = None
        self._nodes: dict[str, NodeSecrets] = {}
        self._refresh = Paced(self._translate)

    # inputs
    # ----------------------------------------------------------------------------------------------

    def take_catalog(self, catalog: Catalog) -> None:
        """A new catalog from the registry."""
        if catalog.degraded and (self._catalog is None or not self._catalog.degraded):
            log.warning("serving the last known catalog", reason=catalog.degraded)
        self.updates.take_catalog(self.catalog, catalog)
        self._catalog = catalog
        self._refresh()

    def take_config(self, stored: Stored) -> None:
        """New contents of the config store."""
        self._config = stored
        self.updates.take_config()
        self._refresh()

    def take_keys(self, keys: Mapping[str, str]) -> None:
        """New key sets of token issuers, by URL."""
        self._keys = keys
        self.updates.take_keys()
        self._refresh()

    def take_modules(self) -> None:
        """Other modules are known."""
        self._refresh()

    def open(self, secrets: WorkloadSecrets, credentials: GatewayCredentials) -> None:
        """Have certificates: attested proxies are given nothing before."""
        self._secrets, self._credentials = secrets, credentials
        self._nodes.clear()

    # what is known
    # ----------------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The latest catalog."""
        return self._catalog or EMPTY_CATALOG

    @property
    def has_catalog(self) -> bool:
        """Whether the registry was read once."""
        return self._catalog is not None

    @property
    def has_config(self) -> bool:
        """Whether the config store was read once."""
        return self._config is not None

    @property
    def stored(self) -> Stored:
        """The latest contents of the config store."""
        return self._config or {}

    @property
    def mesh(self) -> MeshState:
        """What proxies are served from."""
        return self.translator.mesh

    def refused(self) -> list[Refusal]:
        """What asks for a service's name or id that is another's."""
        return [
            *refusals(self.mesh.owned, self.mesh.ownership),
            *given_way(self.catalog.services.values()),
        ]

    @property
    def refused_config(self) -> list[RefusedResource]:
        """The stored resources that are not valid."""
        return self._reader.refused

    async def settled(self) -> None:
        """Wait until proxies are told of all that is known: changes are gathered for a tenth of a
        second.
        """
        await self._refresh.settled()

    def cancel(self) -> None:
        """Forget a translation that is planned."""
        self._refresh.cancel()

    def snapshot_of(self, workload: str) -> Snapshot | None:
        """What a workload's proxy is to have, without its certificate; None if there is no such
        workload.
        """
        found = self.mesh.workloads.get(workload)
        if found is None:
            return None
        connected = (p.proxy for p in self.servers.proxies() if p.proxy.key == workload)
        told = next((proxy.node.metadata for proxy in connected), {})
        return self._snapshot(proxy_of(found, told))

    # translating
    # ----------------------------------------------------------------------------------------------

    def _translate(self) -> None:
        if self._catalog is None or self._config is None:
            return

        before = self.mesh
        start = time.monotonic()
        try:
            read = self._reader.read(self._config, self._catalog.workloads)
            self._modules.want(wanted_modules(read.wasm_plugins))
            # Before the first config: later ones go on with the modules that there are.
            if not (self._has_served or self._modules.is_settled):
                return
            self._has_served = True
            is_changed = self._update(self._catalog, self._config, read)
        except Exception:
            # A fault of ours must not take the mesh down: proxies keep what they have until the
            # next change.
            log.exception(
                "the mesh could not be translated; proxies keep their configuration"
            )
            return

        # What could not be translated waits on.
        changes = self.updates.gather()
        self.updates.translated.add(time.monotonic() - start)
        has_other_workloads = self.mesh.workloads is not before.workloads
        if self._secrets is not None and has_other_workloads:
            self._secrets.retain(self.mesh.workloads)
        if self._credentials is not None:
            is_changed = self._credentials.update(self._config) or is_changed

        if is_changed or has_other_workloads:
            self._publish(changes)

    def _update(self, catalog: Catalog, config: Stored, read: IstioConfig) -> bool:
        mesh = build_mesh(
            catalog,
            config=read,
            settings=self._settings,
            jwks=self._keys,
            modules=self._modules.known,
            previous=self.mesh,
        )
        is_changed = self.translator.update(mesh)
        self._tell_of_refused()
        self._on_mesh(mesh)
        self.served_from = config
        self._want_keys(wanted_keys(mesh.config.request_authentications))
        return is_changed

    def _tell_of_refused(self) -> None:
        # Of ids the registrar tells.
        owned = refusals(self.mesh.owned, self.mesh.ownership)
        found = frozenset(refusal.sentence for refusal in owned)
        for sentence in sorted(found - self._refused):
            log.warning("a registration is refused", reason=sentence)
        self._refused = found

    def _publish(self, changes: Changes) -> None:
        self.updates.told(changes)
        present = self.servers.anonymous
        self._anonymous = {k: p for k, p in self._anonymous.items() if k in present}
        self.servers.publish(
            self._look_up, self._look_up_anonymous, self.served_from, changes
        )

    def _look_up(self, proxy: ConnectedProxy) -> Snapshot | None:
        workload = self.mesh.workloads.get(proxy.key)
        if workload is None or self._secrets is None or self._credentials is None:
            return None
        known = proxy_of(workload, proxy.node.metadata)
        snapshot = self._snapshot(known)
        if snapshot is None:
            return None

        if workload.kind is WorkloadKind.NODE:
            return self._with_certificates(known, snapshot, self._secrets)

        identity = workload.identity(self.mesh.settings.trust_domain)
        seal = self._seal_of(workload.name)
        facts = facts_of(workload.name, workload.namespace, workload.labels)
        under = self._credentials.layered(workload, snapshot, seal)
        to = Recipient(identity, workload.id, seal, facts.text)
        return self._secrets.layered(proxy.key, to, under)

    def _with_certificates(
        self, node: Proxy, snapshot: Snapshot, leaves: WorkloadSecrets
    ) -> Snapshot:
        secrets = self._nodes.get(node.id)
        if secrets is None:
            secrets = self._nodes[node.id] = NodeSecrets(node.id, leaves)
        served = workloads_at(node, self.mesh)
        return secrets.layered(served, self.mesh.settings.trust_domain, snapshot)

    def _look_up_anonymous(self, proxy: ConnectedProxy) -> Snapshot | None:
        if self._catalog is None or self._config is None:
            return None
        known = self._anonymous.get(proxy.key)
        if known is None:
            known = self._anonymous[proxy.key] = anonymous_proxy(proxy.node)
        return self._snapshot(known)

    def _snapshot(self, proxy: Proxy) -> Snapshot | None:
        try:
            return self.translator.snapshot(proxy)
        except Exception:
            log.exception(
                "a proxy's part could not be translated; it keeps its configuration",
                proxy=proxy.id,
            )
            return None

    def _take_refusal(self, proxy: ConnectedProxy, type_url: str, nack: Nack) -> None:
        """Find who is to blame, and leave the EnvoyFilters out of what a proxy refused, or the next
        to start would have nothing there.
        """
        workload = self.mesh.workloads.get(proxy.key)
        told = proxy_of(workload, proxy.node.metadata) if workload is not None else None
        if told is not None:
            self._find_guilty(proxy.key, told, type_url, nack)
        if told is not None and self.translator.distrust(told, type_url, nack.detail):
            # Not within the stream's own turn, which is in the midst of taking the refusal.
            asyncio.get_running_loop().call_soon(self._republish)

    def _find_guilty(self, key: str, told: Proxy, type_url: str, nack: Nack) -> None:
        snapshot = self._snapshot(told)
        if snapshot is None:
            return
        sources = self.translator.sources(
            told, snapshot.of(type_url), type_url, refused_names(nack)
        )
        accepted = self.servers.attested.accepted(key)
        self.blame.take(
            (key, type_url),
            nack,
            sources,
            self.served_from,
            accepted if isinstance(accepted, Mapping) else None,
        )

    def _republish(self) -> None:
        self.servers.attested.publish(self._look_up, self.served_from)
