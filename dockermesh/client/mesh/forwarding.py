"""A local forward to the config API while a command runs, for kubectl and others that need an
address.

Each connection is carried as the command line's own are: directly, or through the engine.
Invariant: what is written for the command (token, CA) is for this user alone, and gone when it
ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockermesh.ca import write_private
from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.kubeconfig import merged, rendered
from dockermesh.client.mesh.route import Dial, Route
from dockermesh.errors import DockermeshError, NotReadyError, UsageError
from dockermesh.model import API_PORT
from dockermesh.model.contract import ENV_API, ENV_CA, ENV_TOKEN

CONTEXT = "dockermesh"
_PART = 1 << 16


@dataclass(frozen=True, slots=True)
class Forward:
    """What leads to the config API while it lasts: variables for kubectl and for dockermesh."""

    url: str
    environment: dict[str, str]


@contextlib.contextmanager
def forwarding(route: Route) -> Iterator[Forward]:
    """A forward for the time of a `with` block.

    Raises NotReadyError when the control plane has no token yet, EngineError if the engine fails.
    """
    known = route.credentials()
    if not known.token or not known.root_pem:
        raise NotReadyError(
            "the control plane has no token and no CA yet",
            where=route.where,
            fix="try again",
        )

    listener = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    serving = threading.Thread(
        target=_serve,
        args=(listener, lambda: route.dial_plainly(API_PORT)),
        daemon=True,
    )
    serving.start()

    with listener, tempfile.TemporaryDirectory(prefix="dockermesh-forward-") as folder:
        config, root = Path(folder) / "kubeconfig", Path(folder) / "root.pem"
        endpoint = Endpoint(url, known.token, known.root_pem)
        text = rendered(merged({}, endpoint, CONTEXT, set_current=True))
        write_private(config, text.encode())
        write_private(root, known.root_pem.encode())
        yield Forward(
            url,
            {
                "KUBECONFIG": str(config),
                ENV_API: url,
                ENV_TOKEN: known.token,
                ENV_CA: str(root),
            },
        )


def run(command: Sequence[str], forward: Forward) -> int:
    """Run a command with the forward's variables; its exit code, or 128 and the signal that ended
    it, as shells have it. Raises UsageError if there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"there is no command {command[0]!r}",
            fix="dockermesh forward -- COMMAND ARGUMENTS",
        )

    environment = os.environ | forward.environment
    with subprocess.Popen(command, env=environment) as process, _passed_on(process):
        code = process.wait()
    return code if code >= 0 else 128 - code


def stop_signal() -> threading.Event:
    """An event that SIGINT, SIGTERM and SIGHUP set from now on, in place of what they did."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Signals are the command's to answer; a terminal's Ctrl-C has reached it already."""
    handlers: dict[signal.Signals, Any] = {signal.SIGINT: signal.SIG_IGN}
    for number in (signal.SIGTERM, signal.SIGHUP):
        handlers[number] = lambda number, _: process.send_signal(number)
    before = {
        number: signal.signal(number, handler) for number, handler in handlers.items()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(listener: socket.socket, dial: Dial) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_carry, args=(client, dial), daemon=True).start()


def _carry(client: socket.socket, dial: Dial) -> None:
    """Both directions of a connection, until both have ended."""
    with client:
        try:
            server = dial()
        except (OSError, DockermeshError):
            return

        with server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(_PART):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
