"""Which backend a control plane has: the one place that knows the sources by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.errors import UsageError
from dockermesh.model.contract import ENV_NETWORK, MESH_NETWORK
from dockermesh.registrar.options import Options
from dockermesh.registry import Backend
from dockermesh.registry.consul.backend import ConsulBackend
from dockermesh.registry.docker.backend import DockerBackend


def _consul(settings: ControlPlaneSettings) -> Backend:
    return ConsulBackend(
        settings.consul,
        _options(settings) if settings.registrar else None,
        settings.state_dir,
    )


def _docker(settings: ControlPlaneSettings) -> Backend:
    return DockerBackend(
        settings.state_dir, _options(settings), settings.service_domain
    )


BACKENDS: Mapping[str, Callable[[ControlPlaneSettings], Backend]] = MappingProxyType(
    {"consul": _consul, "docker": _docker}
)


def choose_backend(settings: ControlPlaneSettings) -> Backend:
    """The backend that the settings name. Raises UsageError where there is none of this name."""
    make = BACKENDS.get(settings.registry)
    if make is None:
        raise UsageError(
            f"unknown registry {settings.registry!r}",
            fix=f"use one of: {', '.join(BACKENDS)}",
        )
    return make(settings)


def _options(settings: ControlPlaneSettings) -> Options:
    # Inside a mesh, containers are reached at their own addresses on the mesh network.
    network = settings.environment.get(ENV_NETWORK) or MESH_NETWORK
    return Options(
        internal=True,
        network=network,
        run_checks=settings.run_checks,
        explicit=settings.explicit,
        for_mesh=True,
    )
