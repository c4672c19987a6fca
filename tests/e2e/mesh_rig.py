"""What the end-to-end tests drive a real mesh with: the command line, the engine, and what both can
be asked.

Invariant: everything waits with `patience.until`, for a condition and up to a deadline; nothing
sleeps and hopes.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from patience import SLACK, until

ROOT = Path(__file__).parents[2]
DOCKERMESH = str(Path(sys.executable).parent / "dockermesh")
MESH_FILE = str(ROOT / "compose/mesh.yaml")
SAMPLE = str(ROOT / "samples/bookinfo/compose.yaml")
CONTROL_PLANE = "dockermesh-control-plane"
CONSUL = "dockermesh-consul"
CONSUL_URL = "http://127.0.0.1:8500"
TOKEN_FILE = "/var/lib/dockermesh/api.token"
APPS = (
    "details-v1",
    "productpage-v1",
    "ratings-v1",
    "reviews-v1",
    "reviews-v2",
    "reviews-v3",
)
EVERYBODY = frozenset({f"bookinfo/{app}-1" for app in APPS} | {"bookinfo/gateway-1"})
HEALS_S = 10.0
LEARNS_S = 0.1 * SLACK
"""Until the peers of a process that was killed have noticed, on a busy machine."""


def run(
    *command: str, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A command with its output as text."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    if check:
        assert done.returncode == 0, (
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def docker(*arguments: str, check: bool = True) -> str:
    """`docker ARGUMENTS`, without the last newline."""
    return run("docker", *arguments, check=check).stdout.strip()


def inspect(container: str) -> dict[str, Any]:
    """`docker inspect` of one container; empty if there is none."""
    found = json.loads(
        docker("inspect", "--type=container", container, check=False) or "[]"
    )
    return dict(found[0]) if found else {}


def statistics(pod: str) -> list[str]:
    """What the pod's proxy counts, as on its loopback."""
    asked = (
        "GET /stats/prometheus HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"
    )
    script = f"exec 3<>/dev/tcp/127.0.0.1/15090; printf '{asked}' >&3; cat <&3"
    command = ["docker", "exec", pod, "bash", "-c", script]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    answer = http.client.HTTPResponse(_Received(raw))
    answer.begin()
    return answer.read().decode().splitlines()


class _Received(socket.socket):
    """A socket that has received all that will come."""

    def __init__(self, received: bytes) -> None:
        super().__init__()
        self._received = received

    def makefile(self, *_: Any, **__: Any) -> Any:
        return io.BytesIO(self._received)


def taken_in(pod: str) -> int:
    """How many HTTP requests the proxy of the pod was sent for its app."""
    counted = [
        line
        for line in statistics(pod)
        if "downstream_rq_total" in line and "inbound" in line
    ]
    assert counted, f"{pod} counts no inbound requests"
    return int(sum(float(line.rpartition(" ")[2]) for line in counted))


def pid(container: str) -> int:
    """The process id of the container's first process; 0 while it does not run."""
    return int(inspect(container).get("State", {}).get("Pid", 0))


def send(container: str, number: signal.Signals) -> int:
    """Send a signal to the first process from outside, so that Docker knows nothing of it; returns
    its id.
    """
    target = pid(container)
    assert target, f"{container} does not run"
    try:
        os.kill(target, number)
    except PermissionError:
        # Not root: let a container do it.
        image = inspect(CONTROL_PLANE)["Config"]["Image"]
        docker(
            "run",
            "--rm",
            "--privileged",
            "--pid=host",
            "--entrypoint=kill",
            image,
            f"-{number}",
            str(target),
        )
    return target


def kill(container: str) -> tuple[float, float]:
    """Kill the first process with -9, as the OOM killer would; returns the moments between which it
    was dying.

    A dying process still has connections that the kernel takes in its name, so its end is waited
    for, and what its peers need to learn of it.
    """
    before = time.monotonic()
    target = send(container, signal.SIGKILL)
    until(
        lambda: not Path(f"/proc/{target}").exists(),
        f"process {target} is gone",
        10,
        every=0.002,
    )
    return before, time.monotonic() + LEARNS_S


def listens(container: str, port: int) -> bool:
    """Whether anybody listens on the port in the container's network namespace."""
    return port in listening_ports(container)


def listening_ports(container: str) -> set[int]:
    """The TCP ports that are listened on in the container's network namespace."""
    number = pid(container)
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (
                Path(f"/proc/{number}/net/{table}").read_text().splitlines()[1:]
            ):
                fields = line.split()
                if fields[3] == "0A":
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def get(
    url: str, *, timeout: float = 10 * SLACK, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and body; a refused connection is an OSError, an error status is not."""
    request = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from error


def whole_page() -> str:
    """The product page, if it has all of its parts: the apps give each other up after 2.5 or 3
    s.
    """
    try:
        code, body = get("http://127.0.0.1:30080/productpage")
    except OSError:
        return ""
    is_whole = (
        code == 200
        and "ISBN-10" in body
        and "Reviewer1" in body
        and "currently unavailable" not in body
    )
    return body if is_whole else ""


def answers(url: str, status: int = 200) -> bool:
    """Whether the URL is answered with this status now."""
    try:
        return get(url, timeout=5 * SLACK)[0] == status
    except OSError:
        return False


def consul(path: str, method: str = "GET", body: object = None) -> Any:
    """Consul's HTTP API on the host; what is read is the present state."""
    if method == "GET":
        path += ("&" if "?" in path else "?") + "consistent"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{CONSUL_URL}{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=10 * SLACK) as answer:
        text = answer.read().decode()
    return json.loads(text) if text else None


@dataclass(frozen=True, slots=True)
class Mesh:
    """The mesh of this host as its user sees it. `state` is where the command line keeps generated
    projects.
    """

    state: Path

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of the command line."""
        return (
            dict(os.environ)
            | {"XDG_STATE_HOME": str(self.state), "NO_COLOR": "1"}
            | changes
        )

    def command(
        self, *arguments: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """`dockermesh ARGUMENTS`, whatever its exit status."""
        options.setdefault("env", self.environment())
        return run(DOCKERMESH, *arguments, check=False, **options)

    def up(
        self, file: str | Path = SAMPLE, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """`dockermesh up`, which must succeed."""
        # The tasks apply Gateways with TLS later, which need a way in.
        doors = ("--gateway-port", "443:30443") if str(file) == str(SAMPLE) else ()
        done = self.command(
            "up", "-f", str(file), "--timeout", str(60 * SLACK), *doors, *arguments
        )
        assert done.returncode == 0, (
            f"up {file} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def down(self, project: str) -> None:
        """Remove a project and its volumes; nothing of it may be left."""
        done = self.command("down", "-p", project, "-v")
        assert done.returncode == 0, f"down {project}\n{done.stdout}{done.stderr}"
        assert leftovers(project) == [], f"down left something of {project}"

    def workloads(self, project: str = "bookinfo") -> list[dict[str, Any]]:
        """`dockermesh ps -o json`; nothing while the control plane does not answer."""
        done = self.command("ps", "-p", project, "-o", "json")
        return list(json.loads(done.stdout)) if done.returncode == 0 else []

    def warnings(self) -> list[str]:
        """What `dockermesh ps` warns of."""
        lines = self.command("ps").stderr.splitlines()
        return [line for line in lines if line.startswith("warning: ")]

    def page(self, path: str, port: int = 15014) -> str:
        """A page of the control plane, with the token of its container."""
        code, body = get(
            f"http://127.0.0.1:{port}{path}",
            headers={"Authorization": f"Bearer {_token()}"},
        )
        assert code == 200, f"{path}: {code} {body}"
        return body

    def metrics(self) -> dict[str, float]:
        """The control plane's metrics by name with labels."""
        lines = [
            line
            for line in self.page("/metrics").splitlines()
            if line and not line.startswith("#")
        ]
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines)
        }

    def endpoints(self, service: str) -> list[dict[str, Any]]:
        """The endpoints that the control plane knows of a service."""
        listed = json.loads(self.page("/debug/registryz"))
        return [
            e
            for s in listed
            if s["hostname"] == f"{service}.service.consul"
            for e in s["endpoints"]
        ]

    def is_ready(self) -> bool:
        """Whether the control plane serves proxies."""
        return answers("http://127.0.0.1:15014/readyz")

    def proxies(self) -> dict[str, dict[str, Any]]:
        """Connected proxies by workload; nothing while the control plane does not answer."""
        try:
            return {
                proxy["proxy"]: proxy for proxy in json.loads(self.page("/debug/syncz"))
            }
        except (OSError, AssertionError):
            return {}

    def is_synced(self, names: Collection[str] = ()) -> bool:
        """Whether these workloads (by default bookinfo's) are connected, in sync and healthy."""
        try:
            report = json.loads(self.page("/debug/workloads"))
        except (OSError, AssertionError):
            return False
        wanted = set(names) or EVERYBODY
        good = {
            w["name"]
            for w in report["workloads"]
            if w["xds"] == "SYNCED" and w["health"] in {"healthy", "-"}
        }
        return wanted <= good and not report["degraded"]

    def until_synced(
        self, seconds: float = HEALS_S, names: Collection[str] = ()
    ) -> None:
        """Wait until all is well again."""
        until(
            lambda: self.is_synced(names),
            "every proxy in sync and every endpoint healthy",
            seconds,
            0.1,
        )

    def resources_sent(self) -> float:
        """How many resources but certificates, which are new after each start, the control plane
        sent since then.
        """
        counted = self.metrics().items()
        prefix, certificates = "dockermesh_xds_resources_sent_total", 'type="secrets"'
        return sum(
            v
            for name, v in counted
            if name.startswith(prefix) and certificates not in name
        )


@cache
def _token() -> str:
    """The API's token, out of the control plane's container as the command line does it; restarts
    do not change it.
    """
    return docker("exec", CONTROL_PLANE, "cat", TOKEN_FILE)


def leftovers(project: str) -> list[str]:
    """Everything of a Compose project that the engine still has."""
    label = f"label=com.docker.compose.project={project}"
    found = []
    for what, options in (("container", ["-a"]), ("network", []), ("volume", [])):
        lines = docker(what, "ls", "-q", *options, "--filter", label).split()
        found += [f"{what} {line}" for line in lines]
    return found


def containers(project: str) -> dict[str, tuple[str, str]]:
    """Container id and moment of start by name."""
    names = docker(
        "ps",
        "-a",
        "--filter",
        f"label=com.docker.compose.project={project}",
        "--format",
        "{{.Names}}",
    )
    found = {name: inspect(name) for name in names.split()}
    return {name: (c["Id"], c["State"]["StartedAt"]) for name, c in found.items() if c}


def diagnosis(mesh: Mesh) -> str:
    """What one wants to know when a test failed."""
    table = mesh.command("ps")
    ours = docker(
        "ps",
        "-a",
        "--filter",
        "label=dockermesh.io/role",
        "--format",
        "{{.Names}}\t{{.Status}}",
        check=False,
    )
    log = run("docker", "logs", "--tail", "40", CONTROL_PLANE, check=False)
    return (
        f"{table.stdout}{table.stderr}\n{ours}\n--- log of the control"
        f" plane\n{log.stdout}{log.stderr}"
    )
