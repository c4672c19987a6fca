"""The backend of a mesh that has one host and no Consul."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dockermesh.registrar.options import Options
from dockermesh.registrar.run import complete_options
from dockermesh.registrar.start import NOT_YET, Told, reach_engine
from dockermesh.registry.docker.registry import DockerRegistry
from dockermesh.registry.folder.backend import FolderBackend
from dockermesh.registry.protocols import Publish, Registry, Tls


class DockerBackend(FolderBackend):
    """What the engine of this host runs, registered by `options`; the rest is in `folder`."""

    name = "docker"

    def __init__(self, folder: Path, options: Options, domain: str) -> None:
        super().__init__(folder)
        # Nobody else could ask the checks.
        self._options = replace(options, run_checks=True)
        self._domain = domain
        self.missing = NOT_YET
        self.engine_problem = ""

    def registry(self, tls: Tls) -> Registry:
        """The engine's containers as services."""
        return _ThisEngine(
            self._options,
            self._domain,
            tls,
            self._take_problem,
            self._take_engine_problem,
            self.healed.add,
        )

    def _take_problem(self, problem: str) -> None:
        self.missing = problem

    def _take_engine_problem(self, problem: str) -> None:
        self.engine_problem = problem


class _ThisEngine:
    """The engine, once it is there: what it is called is part of the options."""

    def __init__(
        self,
        options: Options,
        domain: str,
        tls: Tls,
        told_of_start: Told,
        told: Told,
        healed: Callable[[str, str], None],
    ) -> None:
        self._healed = healed
        self._told_of_start, self._told = told_of_start, told
        self._options = options
        self._domain = domain
        self._tls = tls

    async def run(self, publish: Publish) -> None:
        engine = await reach_engine(self._told_of_start)
        options = await complete_options(engine, self._options)
        await DockerRegistry(
            engine,
            options,
            domain=self._domain,
            tls=self._tls,
            told=self._told,
            healed=self._healed,
        ).run(publish)
