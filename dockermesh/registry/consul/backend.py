"""Consul as the only place with state: services, workloads, config, history, tokens, the CA."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.model.contract import KEY_HISTORY, KEY_ROTATION, KEY_TOKENS
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar
from dockermesh.registrar.run import complete_options
from dockermesh.registrar.start import NOT_YET, reach_engine
from dockermesh.registry.consul.catalog_copy import CatalogCopy
from dockermesh.registry.consul.config_copy import ConfigCopy
from dockermesh.registry.consul.config_store import ConsulConfigStore
from dockermesh.registry.consul.documents import ConsulDocuments
from dockermesh.registry.consul.joined import ConsulJoined
from dockermesh.registry.consul.registry import ConsulRegistry
from dockermesh.registry.consul.sealed_store import ConsulSealedStore
from dockermesh.registry.consul.unwritten import TellingSink, Unwritten
from dockermesh.registry.damaged import document_problem
from dockermesh.registry.grace import Grace
from dockermesh.registry.protocols import Documents, Healed, Registry, Tls


class ConsulBackend:
    """`registrar` are the options of this host's registrar; None if it is a process of its own.

    `state` is a folder of this host, for copies of what Consul must not lose.
    """

    name = "consul"

    def __init__(
        self,
        settings: ConsulSettings,
        registrar: Options | None = None,
        state: Path | None = None,
    ) -> None:
        self._settings = settings
        self._registrar = registrar
        self.missing = NOT_YET if registrar is not None else ""
        self.engine_problem = ""
        self.healed = Healed()
        self._catalog = (
            CatalogCopy(state / "catalog.copy.json") if state is not None else None
        )
        self._unwritten = Unwritten()
        self.grace = Grace()
        self.config = ConsulConfigStore(
            settings,
            copy=_copy(state, "config"),
            check=document_problem,
            grace=self.grace,
        )
        self.tokens = ConsulConfigStore(
            settings, KEY_TOKENS, copy=_copy(state, "tokens"), grace=self.grace
        )
        self.history = ConsulDocuments(
            settings, KEY_HISTORY, "the history of the config"
        )
        self.rotation: Documents | None = ConsulDocuments(
            settings, KEY_ROTATION, "a rotation of the root"
        )
        self.sealed = ConsulSealedStore(settings, self.grace)
        self.joined = ConsulJoined(settings)

    def registry(self, tls: Tls) -> Registry:
        """Consul's catalog. Its checks are asked by Consul, or by a registrar."""
        return ConsulRegistry(
            self._settings,
            copy=self._catalog,
            grace=self.grace,
            unwritten=self._unwritten,
        )

    def registrar(self, tls: Tls) -> Coroutine[Any, Any, None] | None:
        """This host's registrar, if it runs in this process."""
        return (
            self._register(self._registrar, tls)
            if self._registrar is not None
            else None
        )

    async def _register(self, options: Options, tls: Tls) -> None:
        engine = await reach_engine(self._take_problem)
        options = await complete_options(engine, options)
        client = ConsulClient(self._settings)
        try:
            await Registrar(
                engine,
                TellingSink(ConsulSink(client, options.owner), self._unwritten),
                options,
                tls=tls,
                told=self._take_engine_problem,
                healed=self.healed.add,
            ).run()
        finally:
            await client.close()

    def _take_problem(self, problem: str) -> None:
        self.missing = problem

    def _take_engine_problem(self, problem: str) -> None:
        self.engine_problem = problem


def _copy(folder: Path | None, what: str) -> ConfigCopy | None:
    return ConfigCopy(folder / f"{what}.copy.json") if folder is not None else None
