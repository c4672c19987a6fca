"""What can be measured: each server started on ports of its own, with the way to change one
endpoint in it.

Nothing outlives its `with` block, and nothing of the user's (Consul, Docker, environment) is used.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mesh

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GO = ROOT / "build" / "bench-xds-go"
SYNTHETIC = {
    "dockermesh": [sys.executable, str(HERE / "server.py")],
    "bare": [sys.executable, str(HERE / "bare.py")],
    "go": [str(GO)],
}
REAL = "control-plane"
NAMES = (*SYNTHETIC, REAL)
INSTANCES = 3
START = 60.0
"""seconds that a server may take until it is ready"""


class FailedError(Exception):
    """A server did not start or did not do its work."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server, as the load generator needs to know it."""

    pid: int
    target: str
    change: tuple[str, ...]
    """ads_load.py's options that say how to change an endpoint."""


def unavailable(name: str) -> str | None:
    """Why a server can't be measured here; builds the Go program if need be."""
    if (
        name == "go"
        and subprocess.run(
            [HERE / "go" / "setup"], stdout=sys.stderr, check=False
        ).returncode
    ):
        return "the Go program can't be built (see above)"
    if name == REAL and not find_consul():
        return "there is no consul binary: run scripts/setup consul"
    return None


@contextlib.contextmanager
def running(name: str, services: int) -> Iterator[Subject]:
    """Start a server that knows so many services of three endpoints."""
    with (
        control_plane(services)
        if name == REAL
        else synthetic(name, services) as subject
    ):
        yield subject


@contextlib.contextmanager
def synthetic(name: str, services: int) -> Iterator[Subject]:
    """A server of the synthetic mesh, changed over HTTP."""
    xds, control = free_ports(2)
    command = [*SYNTHETIC[name], str(services), str(xds), str(control)]
    with child(command, os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        wait_for(process, control)
        url = f"http://127.0.0.1:{control}/change?op={{op}}&service={{service}}&ip={{ip}}&port={{port}}"
        yield Subject(
            process.pid, f"127.0.0.1:{xds}", ("--change", "url", "--change-url", url)
        )


@contextlib.contextmanager
def control_plane(services: int) -> Iterator[Subject]:
    """The whole control plane, without a registrar, and a Consul of its own in which the change is
    made.
    """
    xds, tls, api, debug = free_ports(4)
    with (
        tempfile.TemporaryDirectory(prefix="bench-xds-") as state,
        consul(Path(state)) as port,
    ):
        fill(port, services)
        environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("DOCKERMESH_", "CONSUL_"))
        }
        environment |= {
            "CONSUL_HTTP_ADDR": f"http://127.0.0.1:{port}",
            "PYTHONPATH": str(ROOT),
        }
        command = [
            sys.executable,
            "-m",
            "dockermesh",
            "control-plane",
            "--no-registrar",
        ]
        command += [
            "--xds-plaintext",
            f"127.0.0.1:{xds}",
            "--xds-address",
            f"127.0.0.1:{tls}",
        ]
        command += [
            "--api-address",
            f"127.0.0.1:{api}",
            "--debug-address",
            f"127.0.0.1:{debug}",
        ]
        command += ["--state-dir", f"{state}/state", "--trust-dir", f"{state}/trust"]
        with child(command, environment, Path(state) / "control-plane.log") as process:
            wait_for(process, debug, "/readyz")
            change = ("--change", "consul", "--consul", f"http://127.0.0.1:{port}")
            yield Subject(process.pid, f"127.0.0.1:{xds}", change)


@contextlib.contextmanager
def consul(state: Path) -> Iterator[int]:
    """A Consul agent in memory, with the limit on connections that compose/mesh.yaml gives it; its
    HTTP port.
    """
    http_port, server, lan = free_ports(3)
    ports = {
        "http": http_port,
        "server": server,
        "serf_lan": lan,
        "serf_wan": -1,
        "dns": -1,
        "grpc": -1,
    }
    settings = {
        "ports": ports,
        "limits": {"http_max_conns_per_client": 10000},
        "disable_update_check": True,
    }
    (state / "consul.json").write_text(json.dumps(settings))
    command = [
        find_consul() or "consul",
        "agent",
        "-dev",
        "-bind",
        "127.0.0.1",
        "-log-level",
        "err",
    ]
    command += ["-config-file", str(state / "consul.json")]
    with child(command, os.environ, state / "consul.log") as process:
        # The leader's catalog answers only once it is elected.
        wait_for(process, http_port, "/v1/catalog/services?consistent")
        yield http_port


def find_consul() -> str | None:
    """The binary on the PATH or beside this Python."""
    return shutil.which("consul") or shutil.which(
        "consul", path=str(Path(sys.executable).parent)
    )


def fill(port: int, services: int) -> None:
    """Register three instances of each service, at the addresses that ads_load.py's proxies have.

    Services take turns, so that the first proxies belong to as many services as possible.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for k in range(services * INSTANCES):
        name = mesh.name(k % services)
        address = f"10.1.{k // 250}.{k % 250 + 1}"
        body = {
            "ID": f"{name}-{k // services}",
            "Name": name,
            "Address": address,
            "Port": mesh.PORT,
        }
        connection.request("PUT", "/v1/agent/service/register", json.dumps(body))
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise FailedError(
                f"Consul refuses {name}: {response.status} {answer.decode()}"
            )
    connection.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. All are held until all are chosen, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def child(
    command: list[str],
    environment: dict[str, str] | os._Environ[str],
    log: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end; the end of its log is shown if it died before."""
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        errors = subprocess.STDOUT if log else None
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=errors
        )
        try:
            yield process
        finally:
            if log and process.poll() is not None:
                print(
                    *log.read_text(errors="replace").splitlines()[-15:],
                    sep="\n",
                    file=sys.stderr,
                )
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, path: str = "") -> None:
    """Wait until the port takes connections and, with a path, answers 200."""
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.connect()
            if not path:
                return
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    why = (
        "does not start"
        if process.poll() is not None
        else f"is not ready within {START:.0f} s"
    )
    raise FailedError(f"{process.args!r} {why}")
