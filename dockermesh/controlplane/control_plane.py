"""The control plane, put together: registry and config in, xDS out.

    registry ─┐
              ├─> Publisher ─> proxies
    config ───┘

One event loop, one TaskGroup; a part that ends is a failure of the whole. Nothing is served before
the registry and the config store were read once, or copies of what they said last where they are
away, so a restarted control plane never sends a proxy less than it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog
from aiohttp import web

from dockermesh import __version__
from dockermesh.ca import Authority, Leaf
from dockermesh.controlplane.backends import choose_backend
from dockermesh.controlplane.debug import make_debug_app
from dockermesh.controlplane.dns.answers import Answers
from dockermesh.controlplane.dns.server import DnsServer, ask_over_tcp
from dockermesh.controlplane.folder_import import import_folder
from dockermesh.controlplane.limiter import LimiterProcess
from dockermesh.controlplane.metrics_page import MetricsPage
from dockermesh.controlplane.modules import Modules
from dockermesh.controlplane.modules_api import add_module_routes
from dockermesh.controlplane.progress import MeshOutcome
from dockermesh.controlplane.publisher import Publisher
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.controlplane.spans.collector import collector_of
from dockermesh.controlplane.state_volume import StateVolume
from dockermesh.controlplane.telemetry.scraper import ScraperFiles, scraper_token
from dockermesh.controlplane.traffic.looking import Looking
from dockermesh.controlplane.traffic.room import RoomKeeper
from dockermesh.controlplane.traffic.route import add_traffic_route
from dockermesh.controlplane.trust.admission import Admission
from dockermesh.controlplane.trust.check_tls import CheckTls
from dockermesh.controlplane.trust.gateway_credentials import (
    GatewayCredentials,
    open_credentials,
)
from dockermesh.controlplane.trust.jwks import KeySets
from dockermesh.controlplane.trust.state_files import open_token
from dockermesh.controlplane.trust.tokens import Tokens
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.controlplane.trust.trust_api import JOIN_PATH, add_trust_routes
from dockermesh.http.auth import TokenGate
from dockermesh.http.credentials import server_credentials
from dockermesh.http.port import HttpPort, ServerTls
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.resources import make_api_app
from dockermesh.kubeapi.verdicts import Verdicts
from dockermesh.model import Catalog, Refusal
from dockermesh.model.contract import API_TOKEN_FILE
from dockermesh.registry import Backend, StoredResource
from dockermesh.runtime.memory import give_back
from dockermesh.runtime.repeats import Repeats
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mtls_report import MtlsReport, mtls_report
from dockermesh.xds import ProxyStatus, Snapshot, Sync

log = structlog.get_logger(__name__)


class ControlPlane:
    """One replica of the control plane."""

    def __init__(
        self, settings: ControlPlaneSettings, backend: Backend | None = None
    ) -> None:
        """`backend` takes the place of the one that the settings name."""
        self._settings = settings
        self._backend = backend or choose_backend(settings)
        self._admission = Admission(denied=None)
        self._key_sets = KeySets(lambda keys: self._publisher.take_keys(keys))  # noqa: PLW0108
        self._modules = Modules(
            settings.state_dir / "modules",
            settings.config,
            lambda: self._publisher.take_modules(),  # noqa: PLW0108
        )
        self._repeats = Repeats()
        self.limiter = LimiterProcess(settings, lambda: self.trust.authority)
        self._publisher = Publisher(
            MeshSettings(
                trust_domain=settings.trust_domain,
                service_domain=settings.service_domain,
                limiter=settings.limiter_of_proxies,
                spans_port=settings.spans_port,
            ),
            self._admission.authorize,
            self._key_sets.want,
            self._repeats,
            self._admission.seal_of,
            self.limiter.take,
            self._modules,
        )
        self._ads = self._publisher.servers.attested
        self._objects = ObjectCache()
        self._history = History(self._backend.history)
        self._verdicts = Verdicts()
        self._credentials: GatewayCredentials | None = None
        self._volume = StateVolume(settings.state_dir)
        self._tls_to_proxies = CheckTls(
            lambda: self.trust.authority, self.trust_domain
        ).context
        self.spans = collector_of(
            settings, lambda: self.trust.authority, self.trust_domain
        )
        self._traffic = Looking(lambda: self.catalog().workloads, self._tls_to_proxies)
        self._room = RoomKeeper(lambda: self.catalog().workloads, self._tls_to_proxies)

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
            settings,
            self._backend.sealed,
            proxies=self._ads.proxies,
            running=self._running,
            rotation=self._backend.rotation,
        )
        self._metrics = MetricsPage(
            self._publisher,
            self.trust,
            self._backend,
            self.limiter,
            self.spans,
            self._volume,
            self._verdicts,
        )

    # what the pages show
    # ----------------------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """What is still missing before proxies are served."""
        missing = []
        if self.trust.missing:
            missing.append(self.trust.missing)
        elif not self._publisher.servers.is_listening:
            missing.append("xDS is not listening yet")
        if self._backend.missing:
            missing.append(self._backend.missing)
        if not self._publisher.has_catalog:
            missing.append(f"the {self._backend.name} registry has not been read yet")
        if not self._publisher.has_config:
            problem = self._backend.config.problem
            missing.append(f"the config store has not been read yet {problem}".rstrip())
        return missing

    @property
    def plaintext_port(self) -> int:
        """Where xDS is served without TLS; 0 if nowhere."""
        return self._publisher.servers.plaintext_port

    def catalog(self) -> Catalog:
        """The latest catalog."""
        return self._publisher.catalog

    def proxies(self) -> list[ProxyStatus]:
        """All connected proxies."""
        return self._publisher.servers.proxies()

    def sync(self) -> Sync:
        """How far all proxies are."""
        return self._publisher.servers.sync()

    async def settled(self) -> None:
        """Wait until proxies are told of all that is known."""
        await self._publisher.settled()

    def trust_domain(self) -> str:
        """The mesh's trust domain, by a MeshConfig or the settings."""
        return self._publisher.mesh.settings.trust_domain

    def mtls(self) -> MtlsReport:
        """What is encrypted, and what STRICT would break."""
        return mtls_report(self._publisher.mesh)

    def metrics_text(self) -> str:
        """Metrics for Prometheus."""
        return self._metrics.text(self.readiness(), self.config_problems())

    def certificates(self) -> Mapping[str, Leaf]:
        """The certificates last given to proxies."""
        return self.trust.certificates()

    def config_problems(self) -> list[str]:
        """Why config or tokens are not what their store says, or may be out of date."""
        stores = (self._backend.config.problem, self._backend.tokens.problem)
        refused = (refused.sentence for refused in self._publisher.refused_config)
        return list(dict.fromkeys(filter(None, (*stores, *refused))))

    def host_problems(self) -> list[str]:
        """What is wrong with this host's disk or engine."""
        return list(filter(None, (self._volume.problem, self._backend.engine_problem)))

    def warnings(self) -> list[str]:
        """What is to be said about the CA and its certificates."""
        return self.trust.warnings()

    def metrics_dropped(self) -> list[str]:
        """Which proxies have no room for more metrics."""
        return [*self._room.warnings()]

    def refused(self) -> list[Refusal]:
        """Registrations that ask for what is another's."""
        return self._publisher.refused()

    def snapshot_of(self, workload: str) -> Snapshot | None:
        """What a workload's proxy is to have, without its certificate; None if there is no such
        workload.
        """
        return self._publisher.snapshot_of(workload)

    # inputs
    # ----------------------------------------------------------------------------------------------

    def _take_catalog(self, catalog: Catalog) -> None:
        # Before anything is published: who is new in it may be waiting at the door.
        self._admission.update(catalog.workloads)
        self._publisher.take_catalog(catalog)

    def _take_config(self, stored: Mapping[str, StoredResource]) -> None:
        self._objects.update(stored, self._backend.config.index)
        self._publisher.take_config(stored)

    # running
    # ----------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        token = open_token(self._settings.state_dir / API_TOKEN_FILE)
        # Health is told while the CA still waits for Consul.
        tls = ServerTls(lambda: self.trust.authority, self._settings.server_names)
        debug = make_debug_app(self, token)
        add_traffic_route(debug, self._traffic)
        ports = [HttpPort(debug, self._settings.debug, tls, self._repeats)]
        ports += self.spans.ports(lambda: self.trust.authority, self._repeats)
        dns = self._dns() if self._settings.dns else None

        try:
            await ports[0].start()
            if dns is not None:
                await dns.start()
            if not await self._open_trust(stop):
                return
            ports.append(self._api_port(token, tls))
            for port in ports[1:]:
                await port.start()
            await self._serve_xds(self.trust.authority)
            await self._run_parts(token, stop)
        finally:
            if dns is not None:
                await dns.stop()
            await self._publisher.servers.stop()
            await self._traffic.close()
            for port in ports:
                await port.stop()
            await self._backend.config.close()
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
        self.trust.authority.on_change.append(self.limiter.wake)

        self._credentials = open_credentials(self._settings)
        if self.trust.secrets is not None:
            self._publisher.open(self.trust.secrets, self._credentials)
        return True

    async def _run_parts(self, token: str, stop: asyncio.Event) -> None:
        settings, secrets = self._settings, self.trust.secrets
        log.info(
            "control plane started",
            xds=settings.xds,
            api=settings.api,
            registry=self._backend.name,
        )
        registry = self._backend.registry(self._tls_to_proxies)

        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(registry.run(self._take_catalog), name="registry"),
                tasks.create_task(
                    self._backend.config.follow(self._take_config), name="config"
                ),
                tasks.create_task(
                    import_folder(
                        settings.config,
                        self._backend.config,
                        self._objects,
                        self._history,
                    ),
                    name="import",
                ),
                tasks.create_task(self._key_sets.run(), name="key sets"),
                tasks.create_task(self._modules.run(), name="modules"),
                tasks.create_task(self.limiter.run(), name="limiter"),
                tasks.create_task(self.trust.keeper.follow(), name="CA"),
                tasks.create_task(self.trust.rotation.run(), name="rotation"),
                tasks.create_task(self.tokens.run(), name="tokens"),
                tasks.create_task(self._repeats.run(), name="repeats"),
                tasks.create_task(self._room.run(), name="room"),
                tasks.create_task(self._scraper_files(token), name="Prometheus"),
                tasks.create_task(self.spans.receiver.forwarder.run(), name="spans"),
                tasks.create_task(give_back(), name="memory"),
                tasks.create_task(self._volume.run(), name="state volume"),
            ]
            if secrets is not None:
                renewing = secrets.run(
                    lambda: self._ads.connected, self._ads.publish_to
                )
                running.append(tasks.create_task(renewing, name="certificates"))
            registrar = self._backend.registrar(self._tls_to_proxies)
            if registrar is not None:
                running.append(tasks.create_task(registrar, name="registrar"))
            await stop.wait()
            log.info("control plane stopping")
            self._publisher.cancel()
            for task in running:
                task.cancel()

    async def _scraper_files(self, token: str) -> None:
        folder, authority = self._settings.telemetry_dir, self.trust.authority
        if folder is not None:
            own = scraper_token(token)
            await ScraperFiles(folder, authority, self.trust_domain, own).run()

    def _running(self) -> list[str]:
        return [
            name
            for name, workload in self.catalog().workloads.items()
            if workload.token_sha256
        ]

    def _dns(self) -> DnsServer:
        consul = self._settings.consul_dns_address
        answers = Answers(
            lambda: self._publisher.mesh,
            self._settings.consul.domain,
            partial(ask_over_tcp, consul) if consul else None,
        )
        return DnsServer(self._settings.dns, answers.answer)

    def _api_port(self, token: str, tls: ServerTls) -> HttpPort:
        app = self._api(token)
        add_trust_routes(app, self.trust, self.tokens, TokenGate(token))
        add_module_routes(app, self._modules, TokenGate(token))
        return HttpPort(app, self._settings.api, tls, self._repeats)

    def _api(self, token: str) -> web.Application:
        if self._settings.api_auth == "none":
            log.warning(
                "serving the config API without tokens", address=self._settings.api
            )

        return make_api_app(
            self._backend.config,
            self._objects,
            token if self._settings.api_auth == "token" else None,
            history=self._history,
            progress=MeshOutcome(
                self._publisher.translator,
                self.sync,
                lambda: self._publisher.served_from,
                self._credentials,
                self._publisher.blame,
                lambda: self.limiter.problem,
            ),
            vault=self._credentials.vault if self._credentials is not None else None,
            why_unread=lambda: self._backend.config.problem,
            version=__version__,
            open_paths=frozenset({JOIN_PATH}),
            verdicts=self._verdicts,
        )

    async def _serve_xds(self, authority: Authority) -> None:
        credentials = server_credentials(authority, self._settings.server_names)
        await self._publisher.servers.start(
            self._settings.xds, credentials, self._settings.xds_plaintext
        )
