"""One mesh for the whole folder, on an engine that is not this host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from ports import free_ports
from remote_rig import (
    RemoteEngine,
    clean,
    make_certificates,
    make_network,
    new_folder,
    remove_network,
)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteEngine]:
    """A running engine with the mesh's images, and nothing else."""
    missing = [name for name in ("dockerd", "ip", "nsenter") if not shutil.which(name)]
    if os.geteuid() or missing:
        pytest.skip(
            f"needs root and {missing or 'nothing else'} -> run: scripts/setup engine"
        )
    folder = new_folder()
    api, debug, consul = free_ports(3)
    settings = {
        "DOCKERMESH_API_PORT": str(api),
        "DOCKERMESH_DEBUG_PORT": str(debug),
        "CONSUL_PORT": str(consul),
        # Its file system is ours, where another engine has the usual place.
        "DOCKER_SOCK": str(folder / "docker.sock"),
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }
    remote = RemoteEngine(folder, settings)
    make_certificates(folder / "certificates")
    make_network()
    remote.start()
    try:
        remote.load_images()
        yield remote
    finally:
        remote.stop()
        remove_network()
        clean(folder)
