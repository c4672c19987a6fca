"""The way of a control plane's registrar to its engine, until it was there for the first time.

Invariant: a control plane that was told to have a registrar is not ready before its engine has
answered. An engine that goes away later makes nothing unready: proxies keep being served.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from dockermesh.docker.address import resolve_engine
from dockermesh.docker.async_engine import DockerEngine, EngineRefusedError
from dockermesh.errors import DockermeshError, EngineError
from dockermesh.model.setup import SET_DOCKER_SOCK
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)
Told = Callable[[str], None]
NOT_YET = "registrar: the engine has not answered yet"


async def reach_engine(told: Told) -> DockerEngine:
    """The engine, once it has answered; until then `told` is given what is wrong, and at the end
    an empty text.
    """
    backoff = Backoff(0.2, 5.0)
    engine: DockerEngine | None = None
    said = ""
    while True:
        engine, problem = await _ask(engine)
        if engine is not None and not problem:
            told("")
            return engine

        told(f"registrar: {problem}")
        if problem != said:
            log.warning("the registrar has no engine; trying again", problem=problem)
        said = problem
        await asyncio.sleep(backoff.next())


async def _ask(engine: DockerEngine | None) -> tuple[DockerEngine | None, str]:
    """The engine, made if it was not yet, and what is wrong with it."""
    try:
        engine = engine or DockerEngine()
        await engine.info()
    except EngineRefusedError:
        # A filter keeps this page to itself; that is an answer, too.
        return engine, ""
    except EngineError as error:
        return engine, socket_problem() or error.what
    except DockermeshError as error:
        return engine, str(error)
    return engine, ""


def socket_problem() -> str:
    """What is wrong with the file that the engine's socket should be; empty if that is not it."""
    path = resolve_engine().socket_path
    if not path:
        return ""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return f"{path} is not there; {SET_DOCKER_SOCK}"
    except OSError as error:
        return f"{path}: {error.strerror}"
    if stat.S_ISSOCK(mode):
        return ""
    kind = "a directory" if stat.S_ISDIR(mode) else "no socket"
    return f"{path} is {kind}; {SET_DOCKER_SOCK}"
