"""The parts of node mode on an engine: whether they run, what they are started with, and what
their agent is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dockermesh.client.compose.mesh_files import mesh_file
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.model.attached import ATTACHED_NAME, CAPTURED_NAME, Attached
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    ENV_NAMESPACES,
    NODE_AGENT_CONTAINER,
    NODE_PATH,
)

NODE_SERVICES = ("node", "node-proxy", "node-agent")
"""Those of node.yaml."""
_COMMAND = ["python3", "-m", "dockermesh.cli.main", "node-agent"]
_USUAL = "/var/run/docker/netns"


def node_file() -> Path:
    """compose/node.yaml."""
    return mesh_file().with_name("node.yaml")


def is_there(engine: LocalEngine) -> bool:
    """Whether the engine has an agent, running or not."""
    return engine.inspect(NODE_AGENT_CONTAINER) is not None


def runs(engine: LocalEngine) -> bool:
    """Whether the engine has an agent that runs."""
    found = engine.inspect(NODE_AGENT_CONTAINER)
    return found is not None and bool(found["State"]["Running"])


def node_settings(engine: LocalEngine) -> dict[str, str]:
    """What node.yaml is to be told of this engine."""
    folder = os.environ.get(ENV_NAMESPACES) or _folder(engine)
    return {ENV_NAMESPACES: folder}


def _folder(engine: LocalEngine) -> str:
    """Where the engine keeps network namespaces, as its own containers tell."""
    for summary in engine.containers():
        found = engine.inspect(summary["Id"])
        key = ((found or {}).get("NetworkSettings") or {}).get("SandboxKey") or ""
        if key:
            return str(key).rpartition("/")[0]
    return _USUAL


def not_shared(said: str) -> EngineError | None:
    """What to tell where the engine cannot show new namespaces to containers."""
    if "shared" not in said or "mount" not in said:
        return None
    folder = namespaces_folder()
    return EngineError(
        f"the engine's network namespaces are not on a shared mount: {said}",
        where=folder,
        fix=share_fix(folder),
    )


def namespaces_folder() -> str:
    """Where the engine keeps network namespaces, as far as the environment says."""
    return os.environ.get(ENV_NAMESPACES) or _USUAL


def share_fix(folder: str) -> str:
    """How to have namespaces that come later be seen in containers."""
    return (
        "on the engine's host, as root: `mount --make-shared $(findmnt -n -o TARGET -T"
        f" {folder})`; systems with systemd have it so"
    )


def is_shared(folder: str, mounts: str) -> bool | None:
    """Whether a folder of this machine is on a shared mount, by the lines of /proc/self/mountinfo;
    None where it is not there.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        return None
    found: dict[Path, bool] = {}
    for line in mounts.splitlines():
        fields = line.split(" ")
        # Optional fields, up to a dash; of several mounts at one place the last is seen.
        optional = fields[6 : fields.index("-")]
        found[Path(fields[4])] = any(word.startswith("shared:") for word in optional)
    above = next((p for p in (path, *path.parents) if p in found), None)
    return found[above] if above is not None else None


def attach(
    engine: LocalEngine, *, projects: Sequence[str] = (), containers: Sequence[str] = ()
) -> None:
    """Have the agent take these in. Raises EngineError."""
    _tell(engine, "--attach", projects, containers)


def detach(
    engine: LocalEngine, *, projects: Sequence[str] = (), containers: Sequence[str] = ()
) -> None:
    """Have the agent let these go, where there is one. Raises EngineError."""
    if runs(engine):
        _tell(engine, "--detach", projects, containers)


def release(engine: LocalEngine) -> None:
    """Undo all capture, where there is an agent. Raises EngineError."""
    if runs(engine):
        _agent(engine, ["--release"])


def attached(engine: LocalEngine) -> Attached:
    """What is attached; nothing where no agent runs."""
    if not runs(engine):
        return Attached()
    said = engine.read_file(NODE_AGENT_CONTAINER, f"{NODE_PATH}/{ATTACHED_NAME}")
    return Attached.from_json(said) if said else Attached()


def attached_projects(engine: LocalEngine) -> set[str]:
    """The attached projects that have containers."""
    return {
        name
        for name in attached(engine).projects
        if engine.containers([f"{COMPOSE_PROJECT}={name}"])
    }


def captured(engine: LocalEngine) -> set[str]:
    """The workloads whose connections are led to the proxy now."""
    said = engine.read_file(NODE_AGENT_CONTAINER, f"{NODE_PATH}/{CAPTURED_NAME}")
    return set(json.loads(said)) if said else set()


def _tell(
    engine: LocalEngine, verb: str, projects: Iterable[str], containers: Iterable[str]
) -> None:
    for names, more in ((projects, []), (containers, ["--containers"])):
        arguments = [part for name in names for part in (verb, name)]
        if arguments:
            _agent(engine, [*arguments, *more])


def _agent(engine: LocalEngine, arguments: list[str]) -> bytes:
    command = [*_COMMAND, *arguments]
    code, output, problem = engine.execute(NODE_AGENT_CONTAINER, command)
    if code:
        said = problem.decode("utf-8", "replace").strip()
        raise EngineError(
            f"the node agent refused: {said}",
            where=NODE_AGENT_CONTAINER,
            fix=f"see its log: `docker logs {NODE_AGENT_CONTAINER}`",
        )
    return output
