"""Where the engine's socket is on the engine's own host: what the registrar gets as a mount.

This side may know the socket by another path (a job in a container), or by none (TCP, ssh), and a
wrong path makes the engine create a folder there in silence. Invariant: a path is given on only
when the engine has it; else the user is asked for `DOCKER_SOCK`.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError, InputError
from dockermesh.model.contract import ENV_REGISTRAR
from dockermesh.model.setup import SET_DOCKER_SOCK

_DEFAULTS = ("/var/run/docker.sock", "/run/docker.sock")
_OWN_FILES = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf)\b")
_SHORT_ID = re.compile(r"[0-9a-f]{12}")
_ASK = """
import json, os, socket, stat, sys
path = sys.argv[1]
kind = os.stat(path).st_mode if os.path.exists(path) else 0
if not stat.S_ISSOCK(kind):
    found = "is a directory" if stat.S_ISDIR(kind) else "is no socket"
    sys.exit(found if kind else "is not there")
engine = socket.socket(socket.AF_UNIX)
engine.settimeout(10)
try:
    engine.connect(path)
    engine.sendall(b"GET /info HTTP/1.0\\r\\nHost: docker\\r\\n\\r\\n")
    answer = b""
    while part := engine.recv(1 << 16):
        answer += part
except OSError as error:
    sys.exit(f"does not answer ({error.strerror or error})")
head, _, body = answer.partition(b"\\r\\n\\r\\n")
info = json.loads(body) if b" 200 " in head[:15] else {}
print(info.get("ID", ""), info.get("DockerRootDir", ""))
"""
"""Prints what `LocalEngine.identity` gives of the engine behind a socket, nothing where a filter
keeps it to itself; or ends with what is wrong.
"""


def socket_on_host(engine: LocalEngine, environ: Mapping[str, str]) -> str:
    """The path of the engine's socket on the engine's host.

    Raises InputError if the user's `DOCKER_SOCK` is not there, or is needed.
    """
    chosen = environ.get("DOCKER_SOCK", "")
    if chosen:
        if not engine.sees(chosen):
            raise InputError(
                "there is no such file on the engine's host",
                where=f"DOCKER_SOCK={chosen}",
                fix=f"name the engine's socket as its own host has it ({engine.address})",
            )

        return chosen

    info = engine.info()
    if info.get("OperatingSystem") == "Docker Desktop":
        # Its engine is in a virtual machine, where the socket is at the default place whatever path
        # leads into it, and where no path can be looked for.
        return _DEFAULTS[0]

    for path in _candidates(engine, info):
        if engine.sees(path):
            return path

    if environ.get(ENV_REGISTRAR) == "false":
        return _DEFAULTS[0]
    raise InputError(
        "the path of the engine's socket on the engine's host is not known",
        where=str(engine.address),
        fix=SET_DOCKER_SOCK,
    )


def check_socket(engine: LocalEngine, container: str, source: str) -> None:
    """Look from inside at the socket that a running container was given.

    Raises EngineError when it is none, or another engine's: what an earlier attempt left at the
    path looks right from outside.
    """
    mounted = next(
        (m for m in _mounts(engine, container) if m["Source"] == source), None
    )
    if mounted is None:
        return

    try:
        command = ["python3", "-SEc", _ASK, str(mounted["Destination"])]
        code, said, problem = engine.execute(container, command)
    except EngineError:
        return  # it has ended again, which is told by who waits for it

    found = said.decode().strip()
    if code:
        why = problem.decode("utf-8", "replace").strip() or f"exit code {code}"
    elif found and found != engine.identity():
        why = "is another engine's"
    else:
        return

    raise EngineError(
        f"the registrar has no engine: {source} {why}", fix=SET_DOCKER_SOCK
    )


def _candidates(engine: LocalEngine, info: Mapping[str, Any]) -> Iterator[str]:
    ours = engine.address.socket_path
    if sys.platform != "linux":
        # The engine is in a virtual machine, which may have our files, but not our sockets.
        yield from _DEFAULTS

    if engine.address.url.startswith("ssh://") and urlsplit(
        engine.address.url
    ).path.strip("/"):
        yield urlsplit(engine.address.url).path
    if ours:
        # Exact where we are in a container; the same path outside may be another engine's.
        yield from _sources(engine, ours)
        yield ours

    if "name=rootless" in (info.get("SecurityOptions") or ()):
        # What stands at the default places belongs to an engine of root's.
        yield f"/run/user/{os.getuid()}/docker.sock"
        return

    yield from _DEFAULTS


def _sources(engine: LocalEngine, path: str) -> Iterator[str]:
    """What this path is on the engine's host, if this process is in a container of that engine."""
    real = PurePosixPath(os.path.realpath(path))
    for container in _own_containers(engine):
        mounts = [m for m in container.get("Mounts") or () if m.get("Type") == "bind"]
        # The innermost first: it hides what the outer ones have at the same path.
        for mount in sorted(mounts, key=lambda m: len(m["Destination"]), reverse=True):
            target = PurePosixPath(os.path.realpath(mount["Destination"]))
            if real.is_relative_to(target):
                yield str(PurePosixPath(mount["Source"]) / real.relative_to(target))


def _own_containers(engine: LocalEngine) -> Iterator[dict[str, Any]]:
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        mounts = ""

    # Docker mounts /etc/hostname and its like from a folder that is called by the ID. The host
    # name is the ID, too, unless the user chose one.
    names = [*dict.fromkeys(_OWN_FILES.findall(mounts)), socket.gethostname()]
    for name in names:
        # Only an ID: a container may be called as this machine is.
        if len(name) == 64 or _SHORT_ID.fullmatch(name):
            found = engine.inspect(name)
            if found is not None and str(found["Id"]).startswith(name):
                yield found


def _mounts(engine: LocalEngine, container: str) -> list[dict[str, Any]]:
    return list((engine.inspect(container) or {}).get("Mounts") or ())
