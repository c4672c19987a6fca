"""The exchangeable parts of a control plane: where services come from, and where config is kept."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from dockermesh.app.folder_history import FolderDocuments
from dockermesh.app.folder_store import FolderConfigStore
from dockermesh.app.registrar_start import Told, reach_engine
from dockermesh.app.settings import ControlPlaneSettings
from dockermesh.engine.consul_client import ConsulClient
from dockermesh.model import Catalog
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.docker_registry import DockerRegistry
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar
from dockermesh.registrar.run import complete_options
from dockermesh.registry.config_store import ConsulConfigStore
from dockermesh.registry.consul import ConsulRegistry
from dockermesh.registry.history_store import ConsulDocuments

Publish = Callable[[Catalog], None]
Tls = Callable[[], ssl.SSLContext]


def make_store(settings: ControlPlaneSettings) -> ConsulConfigStore | FolderConfigStore:
    """Consul's KV, or a folder where there is no Consul."""
    if settings.registry == "docker":
        return FolderConfigStore(settings.state_dir / "config")
    return ConsulConfigStore(settings.consul)


def make_token_store(settings: ControlPlaneSettings) -> ConsulConfigStore | FolderConfigStore:
    """Where join tokens and the digests of revoked ones are kept."""
    if settings.registry == "docker":
        return FolderConfigStore(settings.state_dir / "tokens")
    return ConsulConfigStore(settings.consul, "dockermesh/tokens/")


def make_documents(settings: ControlPlaneSettings) -> ConsulDocuments | FolderDocuments:
    """Where the config's history is kept: beside the config."""
    if settings.registry == "docker":
        return FolderDocuments(settings.state_dir / "history")
    return ConsulDocuments(settings.consul)


def needs_engine(settings: ControlPlaneSettings) -> bool:
    """Whether this control plane reads a Docker engine."""
    return settings.registrar or settings.registry == "docker"


def make_registry(
    settings: ControlPlaneSettings, publish: Publish, tls: Tls, told: Told
) -> Coroutine[Any, Any, None]:
    """The source of catalogs, running; `tls` is for health checks, and `told` is given what is
    wrong with the engine if it reads one.
    """
    if settings.registry == "docker":
        return _docker_registry(settings, publish, tls, told)
    return ConsulRegistry(settings.consul).run(publish)


def make_registrar(
    settings: ControlPlaneSettings, tls: Tls, told: Told
) -> Coroutine[Any, Any, None] | None:
    """This host's registrar, running; None where it is a process of its own, or part of the
    registry. `told` is given what is wrong with its engine.
    """
    is_own = settings.registrar and settings.registry == "consul"
    return _registrar(settings, tls, told) if is_own else None


async def _docker_registry(
    settings: ControlPlaneSettings, publish: Publish, tls: Tls, told: Told
) -> None:
    engine = await reach_engine(told)
    await DockerRegistry(engine, await complete_options(engine, _options(settings)), tls=tls).run(
        publish
    )


async def _registrar(settings: ControlPlaneSettings, tls: Tls, told: Told) -> None:
    engine = await reach_engine(told)
    options = await complete_options(engine, _options(settings))
    client = ConsulClient(settings.consul)
    try:
        await Registrar(engine, ConsulSink(client, options.owner), options, tls=tls).run()
    finally:
        await client.close()


def _options(settings: ControlPlaneSettings) -> Options:
    # Inside a mesh, containers are reached at their own addresses on the mesh network.
    network = settings.environment.get("DOCKERMESH_NETWORK") or "dockermesh"
    return Options(
        internal=True,
        network=network,
        run_checks=settings.run_checks or settings.registry == "docker",
    )
