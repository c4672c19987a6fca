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
from collections.abc import Callable, Mapping

import structlog

from dockermesh.controlplane.config_reader import ConfigReader
from dockermesh.controlplane.pacing import Paced
from dockermesh.controlplane.trust.gateway_credentials import GatewayCredentials
from dockermesh.controlplane.trust.workload_secrets import WorkloadSecrets
from dockermesh.controlplane.xds_servers import XdsServers
from dockermesh.model import EMPTY_CATALOG, Catalog
from dockermesh.registry import StoredResource
from dockermesh.runtime.repeats import Repeats
from dockermesh.translate.mesh.known_proxies import anonymous_proxy, proxy_of
from dockermesh.translate.mesh.ownership import refusals
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.security.jwt import wanted_keys
from dockermesh.translate.translator import Translator
from dockermesh.xds import ConnectedProxy, Nack, Snapshot
from dockermesh.xds.server import Authorize

log = structlog.get_logger(__name__)
Stored = Mapping[str, StoredResource]


class Publisher:
    """Translates when something changed, and answers what each proxy is to have.

    `want_keys` is told which key sets of token issuers the config needs, with the time limit of
    each in seconds.
    """

    def __init__(
        self,
        settings: MeshSettings,
        authorize: Authorize,
        want_keys: Callable[[Mapping[str, float]], None],
        repeats: Repeats | None = None,
    ) -> None:
        self.servers = XdsServers(authorize, self._take_refusal, repeats)
        self.translator = Translator()
        self.served_from: Stored = {}
        self._settings = settings
        self._want_keys = want_keys
        self._reader = ConfigReader()
        self._catalog: Catalog | None = None
        self._config: Stored | None = None
        self._keys: Mapping[str, str] = {}
        self._anonymous: dict[str, Proxy] = {}
        self._refused: frozenset[str] = frozenset()
        self._secrets: WorkloadSecrets | None = None
        self._credentials: GatewayCredentials | None = None
        self._refresh = Paced(self._translate)

    # inputs
    # ----------------------------------------------------------------------------------------------

    def take_catalog(self, catalog: Catalog) -> None:
        """A new catalog from the registry."""
        if catalog.degraded and (self._catalog is None or not self._catalog.degraded):
            log.warning("serving the last known catalog", reason=catalog.degraded)
        self._catalog = catalog
        self._refresh()

    def take_config(self, stored: Stored) -> None:
        """New contents of the config store."""
        self._config = stored
        self._refresh()

    def take_keys(self, keys: Mapping[str, str]) -> None:
        """New key sets of token issuers, by URL."""
        self._keys = keys
        self._refresh()

    def open(self, secrets: WorkloadSecrets, credentials: GatewayCredentials) -> None:
        """Have certificates: attested proxies are given nothing before."""
        self._secrets, self._credentials = secrets, credentials

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

    def refused(self) -> list[str]:
        """What is registered under a service's name, and is none of the service."""
        return list(refusals(self.mesh.owned, self.mesh.ownership))

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
        try:
            is_changed = self._update(self._catalog, self._config)
        except Exception:
            # A fault of ours must not take the mesh down: proxies keep what they have until the
            # next change.
            log.exception(
                "the mesh could not be translated; proxies keep their configuration"
            )
            return

        has_other_workloads = self.mesh.workloads is not before.workloads
        if self._secrets is not None and has_other_workloads:
            self._secrets.retain(self.mesh.workloads)
        if self._credentials is not None:
            is_changed = self._credentials.update(self._config) or is_changed

        if is_changed or has_other_workloads:
            self._publish()

    def _update(self, catalog: Catalog, config: Stored) -> bool:
        mesh = build_mesh(
            catalog,
            config=self._reader.read(config, catalog.workloads),
            settings=self._settings,
            jwks=self._keys,
            previous=self.mesh,
        )
        is_changed = self.translator.update(mesh)
        self._tell_of_refused()
        self.served_from = config
        self._want_keys(wanted_keys(mesh.config.request_authentications))
        return is_changed

    def _tell_of_refused(self) -> None:
        found = frozenset(self.refused())
        for sentence in sorted(found - self._refused):
            log.warning("a registration is refused", reason=sentence)
        self._refused = found

    def _publish(self) -> None:
        self.servers.publish(self._look_up, self._look_up_anonymous)

    def _look_up(self, proxy: ConnectedProxy) -> Snapshot | None:
        workload = self.mesh.workloads.get(proxy.key)
        if workload is None or self._secrets is None or self._credentials is None:
            return None
        snapshot = self._snapshot(proxy_of(workload, proxy.node.metadata))
        if snapshot is None:
            return None

        identity = workload.identity(self.mesh.settings.trust_domain)
        under = self._credentials.layered(workload, snapshot)
        return self._secrets.layered(proxy.key, identity, under, holder=workload.id)

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
        """Leave the EnvoyFilters out of what a proxy refused, or the next to start would have
        nothing there.
        """
        workload = self.mesh.workloads.get(proxy.key)
        told = proxy_of(workload, proxy.node.metadata) if workload is not None else None
        if told is not None and self.translator.distrust(told, type_url, nack.detail):
            # Not within the stream's own turn, which is in the midst of taking the refusal.
            asyncio.get_running_loop().call_soon(self._republish)

    def _republish(self) -> None:
        self.servers.attested.publish(self._look_up)
