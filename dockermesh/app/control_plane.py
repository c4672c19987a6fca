"""The control plane, put together: registry and config in, xDS out.

    registry ─┐
              ├─> refresh: MeshState ─> Translator ─> AdsServer
    config ───┘

One event loop, one TaskGroup; a part that ends is a failure of the whole. Nothing is served before
the registry and the config store were read once, so a restarted control plane never sends a proxy
less than it has.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
import structlog
from aiohttp import web

from dockermesh import __version__
from dockermesh.app.admission import Admission
from dockermesh.app.check_tls import CheckTls
from dockermesh.app.config_reader import ConfigReader
from dockermesh.app.debug import make_debug_app
from dockermesh.app.folder_import import import_folder
from dockermesh.app.gateway_credentials import GatewayCredentials, open_credentials
from dockermesh.app.jwks import KeySets
from dockermesh.app.known_proxies import anonymous_proxy, proxy_of
from dockermesh.app.metrics import render_metrics, trust_metrics
from dockermesh.app.outcome import MeshOutcome
from dockermesh.app.pacing import Paced
from dockermesh.app.parts import choose_backend
from dockermesh.app.settings import ControlPlaneSettings
from dockermesh.app.state_files import open_token
from dockermesh.app.tokens import Tokens
from dockermesh.app.trust import Trust
from dockermesh.app.trust_api import JOIN_PATH, add_trust_routes
from dockermesh.ca import Authority, Leaf
from dockermesh.errors import DockermeshError
from dockermesh.http.auth import TokenGate
from dockermesh.http.credentials import server_credentials
from dockermesh.http.port import HttpPort, ServerTls
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.resources import make_api_app
from dockermesh.model import EMPTY_CATALOG, Catalog
from dockermesh.registry import Backend, StoredResource
from dockermesh.translate.jwt import wanted_keys
from dockermesh.translate.mesh import Proxy, build_mesh
from dockermesh.translate.mtls_report import MtlsReport, mtls_report
from dockermesh.translate.settings import MeshSettings
from dockermesh.translate.translator import Translator
from dockermesh.xds import AdsServer, Nack, NodeInfo, ProxyStatus, Snapshot, Sync
from dockermesh.xds import Proxy as ConnectedProxy

log = structlog.get_logger(__name__)


class ControlPlane:
    """One replica of the control plane."""

    def __init__(self, settings: ControlPlaneSettings, backend: Backend | None = None) -> None:
        """`backend` takes the place of the one that the settings name."""
        self._settings = settings
        self._backend = backend or choose_backend(settings)
        self._translator = Translator()
        self._admission = Admission(denied=None)
        self._reader = ConfigReader()
        self._mesh_settings = MeshSettings(
            trust_domain=settings.trust_domain, service_domain=settings.service_domain
        )
        self._catalog: Catalog | None = None
        self._config: Mapping[str, StoredResource] | None = None
        self._translated: Mapping[str, StoredResource] = {}
        self._objects = ObjectCache()
        self._key_sets = KeySets(self.take_keys)
        self._keys: Mapping[str, str] = {}
        self._ads = AdsServer(authorize=self._admission.authorize, on_nack=self._take_refusal)
        self.tokens = Tokens(
            self._backend.tokens,
            self._admission,
            catalog=self.catalog,
            connected=lambda: self._ads.connected,
            disconnect=self._ads.disconnect,
            joined=self._backend.joined,
            allow_loopback=settings.consul.allow_loopback,
        )
        self.trust = Trust(
            settings, self._backend.sealed, proxies=self._ads.proxies, running=self._running
        )
        self._plaintext = AdsServer(authorize=_anonymous)
        self._anonymous: dict[str, Proxy] = {}
        self._store = self._backend.config
        self._history = History(self._backend.history)
        self._refresh = Paced(self._translate)
        self._credentials: GatewayCredentials | None = None
        self._listening = False
        self.plaintext_port = 0

    # what the pages show
    # ------------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """What is still missing before proxies are served."""
        missing = []
        if self.trust.missing:
            missing.append(self.trust.missing)
        elif not self._listening:
            missing.append("xDS is not listening yet")
        if self._catalog is None:
            missing.append(f"the {self._backend.name} registry has not been read yet")
        if self._config is None:
            missing.append(f"the config store has not been read yet {self._store.problem}".rstrip())
        return missing

    def catalog(self) -> Catalog:
        """The latest catalog."""
        return self._catalog or EMPTY_CATALOG

    def stored(self) -> Mapping[str, StoredResource]:
        """The config store's contents."""
        return self._config or {}

    def proxies(self) -> list[ProxyStatus]:
        """All connected proxies."""
        return [*self._ads.proxies(), *self._plaintext.proxies()]

    def sync(self) -> Sync:
        """How far all proxies are."""
        one, two = self._ads.sync(), self._plaintext.sync()
        return Sync(
            one.connected + two.connected, one.pending + two.pending, one.nacked + two.nacked
        )

    async def settled(self) -> None:
        """Wait until proxies are told of all that is known: changes are gathered for a tenth of a
        second.
        """
        await self._refresh.settled()

    def trust_domain(self) -> str:
        """The mesh's trust domain, by a MeshConfig or the settings."""
        return self._translator.mesh.settings.trust_domain

    def mtls(self) -> MtlsReport:
        """What is encrypted, and what STRICT would break."""
        return mtls_report(self._translator.mesh)

    def metrics_text(self) -> str:
        """Metrics for Prometheus."""
        found = (self._ads.metrics, self.sync(), self._translator.counters, self.catalog())
        return render_metrics(*found, trust_metrics(self.trust))

    def certificates(self) -> Mapping[str, Leaf]:
        """The certificates last given to proxies."""
        return self.trust.certificates()

    def trust_warnings(self) -> list[str]:
        """What is to be said about the CA and its certificates."""
        return self.trust.warnings()

    def snapshot_of(self, workload: str) -> Snapshot | None:
        """What a workload's proxy is to have, without its certificate; None if there is no such
        workload.
        """
        found = self._translator.mesh.workloads.get(workload)
        if found is None:
            return None
        told = next((p.proxy.node.metadata for p in self.proxies() if p.proxy.key == workload), {})
        return self._snapshot(proxy_of(found, told))

    # inputs
    # ----------------------------------------------------------------------------------------------

    def take_catalog(self, catalog: Catalog) -> None:
        """A new catalog from the registry."""
        if catalog.degraded and (self._catalog is None or not self._catalog.degraded):
            log.warning("serving the last known catalog", reason=catalog.degraded)
        self._catalog = catalog
        self._admission.update(catalog.workloads)
        self._refresh()

    def take_config(self, stored: Mapping[str, StoredResource]) -> None:
        """New contents of the config store."""
        self._config = stored
        self._objects.update(stored, self._store.index)
        self._refresh()

    def take_keys(self, keys: Mapping[str, str]) -> None:
        """New key sets of token issuers, by URL."""
        self._keys = keys
        self._refresh()

    def _translate(self) -> None:
        if self._catalog is None or self._config is None:
            return
        before = self._translator.mesh
        try:
            mesh = build_mesh(
                self._catalog,
                config=self._reader.read(self._config, self._catalog.workloads),
                settings=self._mesh_settings,
                jwks=self._keys,
                previous=before,
            )
            is_changed = self._translator.update(mesh)
            self._translated = self._config
            self._key_sets.want(wanted_keys(mesh.config.request_authentications))
        except Exception:
            # A fault of ours must not take the mesh down: proxies keep what they have until the
            # next change.
            log.exception("the mesh could not be translated; proxies keep their configuration")
            return
        if self.trust.secrets is not None and mesh.workloads is not before.workloads:
            self.trust.secrets.retain(mesh.workloads)
        if self._credentials is not None:
            is_changed = self._credentials.update(self._config) or is_changed
        if is_changed or mesh.workloads is not before.workloads:
            self._ads.publish(self._look_up)
            self._plaintext.publish(self._look_up_anonymous)

    def _look_up(self, proxy: ConnectedProxy) -> Snapshot | None:
        workload = self._translator.mesh.workloads.get(proxy.key)
        if workload is None or self.trust.secrets is None or self._credentials is None:
            return None
        snapshot = self._snapshot(proxy_of(workload, proxy.node.metadata))
        if snapshot is None:
            return None
        identity = workload.identity(self._translator.mesh.settings.trust_domain)
        under = self._credentials.layered(workload, snapshot)
        return self.trust.secrets.layered(proxy.key, identity, under, holder=workload.id)

    def _take_refusal(self, proxy: ConnectedProxy, type_url: str, nack: Nack) -> None:
        """Leave the EnvoyFilters out of what a proxy refused, or the next to start would have
        nothing there.
        """
        workload = self._translator.mesh.workloads.get(proxy.key)
        told = proxy_of(workload, proxy.node.metadata) if workload is not None else None
        if told is not None and self._translator.distrust(told, type_url, nack.detail):
            asyncio.get_running_loop().call_soon(self._ads.publish, self._look_up)

    def _look_up_anonymous(self, proxy: ConnectedProxy) -> Snapshot | None:
        if self._catalog is None or self._config is None:
            return None
        known = self._anonymous.get(proxy.key)
        if known is None:
            known = self._anonymous[proxy.key] = anonymous_proxy(proxy.node)
        return self._snapshot(known)

    def _snapshot(self, proxy: Proxy) -> Snapshot | None:
        try:
            return self._translator.snapshot(proxy)
        except Exception:
            log.exception(
                "a proxy's part could not be translated; it keeps its configuration", proxy=proxy.id
            )
            return None

    # running
    # ----------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        token = open_token(self._settings.state_dir / "api.token")
        # Health is told while the CA still waits for Consul.
        ports = [HttpPort(make_debug_app(self, token), self._settings.debug)]
        try:
            await ports[0].start()
            if not await self._open_trust(stop):
                return
            ports.append(self._api_port(token))
            await ports[1].start()
            await self._serve_xds(self.trust.authority)
            await self._run_parts(stop)
        finally:
            await asyncio.gather(self._ads.stop(), self._plaintext.stop())
            for port in ports:
                await port.stop()
            await self._store.close()
            await self._backend.history.close()
            await self.tokens.close()
            await self.trust.close()

    async def _open_trust(self, stop: asyncio.Event) -> bool:
        """Open the CA; False if the control plane is to stop before it could be."""
        opening = asyncio.ensure_future(self.trust.open())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            return False
        await opening
        self._credentials = open_credentials(self._settings)
        return True

    async def _run_parts(self, stop: asyncio.Event) -> None:
        settings, secrets = self._settings, self.trust.secrets
        tls = CheckTls(self.trust.authority, self.trust_domain).context
        log.info(
            "control plane started", xds=settings.xds, api=settings.api, registry=self._backend.name
        )
        registry = self._backend.registry(tls)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(registry.run(self.take_catalog), name="registry"),
                tasks.create_task(self._store.follow(self.take_config), name="config"),
                tasks.create_task(
                    import_folder(settings.config, self._store, self._objects, self._history),
                    name="import",
                ),
                tasks.create_task(self._key_sets.run(), name="key sets"),
                tasks.create_task(self.trust.keeper.follow(), name="CA"),
                tasks.create_task(self.tokens.run(), name="tokens"),
            ]
            if secrets is not None:
                renewing = secrets.run(lambda: self._ads.connected, self._ads.publish_to)
                running.append(tasks.create_task(renewing, name="certificates"))
            registrar = self._backend.registrar(tls)
            if registrar is not None:
                running.append(tasks.create_task(registrar, name="registrar"))
            await stop.wait()
            log.info("control plane stopping")
            self._refresh.cancel()
            for task in running:
                task.cancel()

    def _running(self) -> list[str]:
        return [
            name for name, workload in self.catalog().workloads.items() if workload.token_sha256
        ]

    def _api_port(self, token: str) -> HttpPort:
        app = self._api(token)
        add_trust_routes(app, self.trust, self.tokens, TokenGate(token))
        return HttpPort(
            app, self._settings.api, ServerTls(self.trust.authority, self._settings.server_names)
        )

    def _api(self, token: str) -> web.Application:
        if self._settings.api_auth == "none":
            log.warning("serving the config API without tokens", address=self._settings.api)
        return make_api_app(
            self._store,
            self._objects,
            token if self._settings.api_auth == "token" else None,
            history=self._history,
            outcome=MeshOutcome(self._translator, self.sync, lambda: self._translated),
            vault=self._credentials.vault if self._credentials is not None else None,
            why_unread=lambda: self._store.problem,
            version=__version__,
            open_paths=frozenset({JOIN_PATH}),
        )

    async def _serve_xds(self, authority: Authority) -> None:
        credentials = server_credentials(authority, self._settings.server_names)
        _bind(self._ads, self._settings.xds, credentials)
        await self._ads.start()
        if self._settings.xds_plaintext:
            self.plaintext_port = _bind(self._plaintext, self._settings.xds_plaintext, None)
            await self._plaintext.start()
            log.warning(
                "serving xDS without TLS and without tokens", address=self._settings.xds_plaintext
            )
        self._listening = True


async def _anonymous(_metadata: Mapping[str, str], node: NodeInfo, _peer: str) -> str:
    return node.id


def _bind(server: AdsServer, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        port = server.add_port(address, credentials)
    except RuntimeError as error:
        raise _taken(address, "xDS") from error
    if port == 0:
        raise _taken(address, "xDS")
    return port


def _taken(address: str, what: str) -> DockermeshError:
    return DockermeshError(
        f"{what} cannot listen on {address}: the address is taken or not allowed",
        fix=f"stop what listens there (`ss -ltnp`), or choose another address for {what}",
    )


async def _main(settings: ControlPlaneSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await ControlPlane(settings).run(stop)


def run(settings: ControlPlaneSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises DockermeshError when the control plane cannot start.
    """
    factory: Any = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_main(settings))
    except* DockermeshError as group:
        _raise_first(group)


def _raise_first(group: BaseExceptionGroup[DockermeshError]) -> NoReturn:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    raise error from None
