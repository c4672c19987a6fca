"""The agent as a process, and what is told to one that runs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from dockermesh.docker.async_engine import DockerEngine
from dockermesh.errors import DockermeshError, EngineError
from dockermesh.model.attached import Attached
from dockermesh.model.contract import (
    ENV_NETWORK,
    MESH_NETWORK,
    NAMESPACES_PATH,
    NODE_PATH,
)
from dockermesh.nodeagent import capture, namespaces
from dockermesh.nodeagent.agent import NodeAgent
from dockermesh.registrar.attached import AttachedFile
from dockermesh.registrar.container import parse_container
from dockermesh.registrar.node_mode import namespace_path
from dockermesh.runtime.daemon import configure_logging, default_form, on_stop

_THREADS = 64
_RELEASE = signal.SIGUSR1
_AGENT = 1
"""The agent's process in its container."""
_PATIENCE_S = 10.0
log = structlog.get_logger(__name__)


def run_agent() -> None:
    """Run until SIGTERM or SIGINT; the rules stay in force then.

    Raises DockermeshError where the namespaces are not to be seen.
    """
    if not Path(NAMESPACES_PATH).is_dir():
        raise DockermeshError(
            "the engine's network namespaces are not to be seen",
            where=NAMESPACES_PATH,
            fix="run it as compose/node.yaml does: `dockermesh up --mode node`",
        )
    configure_logging(default_form())
    asyncio.run(_run())


async def _run() -> None:
    # A thread waits in each namespace that is being made, and nothing else may wait for those.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    network = os.environ.get(ENV_NETWORK) or MESH_NETWORK
    agent = NodeAgent(DockerEngine(), DockerEngine(threads=8), AttachedFile(), network)
    work = asyncio.create_task(agent.run())
    on_stop(work.cancel)
    asyncio.get_running_loop().add_signal_handler(_RELEASE, agent.let_all_go)
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped; what was captured stays so")


def change(
    *, attach: Iterable[str] = (), detach: Iterable[str] = (), containers: bool
) -> Attached:
    """Attach and detach projects, or containers by name. Returns what is attached now."""
    file = AttachedFile(Path(NODE_PATH))
    if containers:
        made = file.now.with_these(containers=attach).without(containers=detach)
    else:
        made = file.now.with_these(projects=attach).without(projects=detach)
    file.write(made)
    return made


def release_all() -> int:
    """Undo the capture of all containers of this host: the agent that runs beside captures none
    until it is started again. Returns how many there are.
    """
    os.kill(_AGENT, _RELEASE)
    file = AttachedFile(Path(NODE_PATH))
    end = time.monotonic() + _PATIENCE_S
    while file.captured() and time.monotonic() < end:
        time.sleep(0.05)
    # Whatever an agent before has left, too.
    return asyncio.run(_release_all(DockerEngine()))


async def _release_all(engine: DockerEngine) -> int:
    count = 0
    for summary in await engine.list_containers():
        data = await engine.inspect(summary["Id"])
        path = namespace_path(parse_container(data)) if data else ""
        if not path:
            continue
        try:
            await asyncio.to_thread(namespaces.within, path, capture.release)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EngineError(
                f"the namespace of {summary['Names'][0]} refuses: {error.strerror}",
                where=path,
                fix="restart that container: its rules are gone then",
            ) from error
        count += 1
    return count
