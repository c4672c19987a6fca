"""The process of the control plane: its loop, its signals, and how it fails."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from dockermesh.controlplane.control_plane import ControlPlane
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.errors import DockermeshError
from dockermesh.runtime.daemon import on_stop


async def _main(settings: ControlPlaneSettings) -> None:
    stop = asyncio.Event()
    on_stop(stop.set)
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
