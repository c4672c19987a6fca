"""The processes of the mesh: Consul, control planes, and what every child has in common."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from lab import add_address

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "source"
"""Where in a mesh's folder the sources are that it runs."""
XDS_PORT = 15012
_QUIET = aiohttp.ClientTimeout(total=20)


def frozen(folder: Path) -> Path:
    """A copy of the sources, for all that a mesh starts: who edits the checkout or brings it up to
    date while a fault runs must not change the version in its midst.
    """
    target = folder / SOURCE
    for part in ("dockermesh", "compose"):
        shutil.copytree(ROOT / part, target / part)
    return target


async def until(condition: Callable[[], Any], what: str, seconds: float = 90) -> float:
    """Wait for a condition (or the awaitable that it returns); the seconds that it took.

    What a busy machine makes slow is no failure, so the deadline is there for what never happens.
    """
    began = time.monotonic()
    while True:
        try:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
            value = None
        if value:
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.05)


class Child:
    """A process with a log, which can be started again after its end."""

    is_group = False

    def __init__(
        self,
        command: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command, self.log = command, log
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._is_ended = False

    def start(self, *, output: int | None = None) -> None:
        """Start it."""
        self._is_ended = False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                start_new_session=self.is_group,
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
            )

    def output_of(self, *command: str) -> str:
        """What another command says that is started as this one is."""
        return subprocess.run(
            command,
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def known_pid(self) -> int | None:
        """Its process id, unless it was not started or ended by the suite."""
        return None if self.process is None or self._is_ended else self.process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal."""
        if self.runs:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        self._is_ended = True
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    async def terminate(self, seconds: float = 30) -> int:
        """Ask it to end; its exit status."""
        self._is_ended = True
        self.signal(signal.SIGTERM)
        await until(lambda: not self.runs, f"{self.command[:4]} ends", seconds)
        assert self.process is not None
        return int(self.process.returncode)

    def rss_mib(self) -> float:
        """The memory that it holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Group(Child):
    """A process and those that it starts, which end with it."""

    is_group = True

    def kill(self) -> None:
        """End all of them."""
        self._is_ended = True
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()


class Consul(Child):
    """A Consul server that keeps its data, alone or one of several."""

    def __init__(self, folder: Path, number: int = 1, servers: int = 1) -> None:
        self.number, self.data = number, folder / f"consul-{number}"
        self.host = f"127.0.0.{number}"
        settings = {
            "performance": {"raft_multiplier": 1},
            "limits": {"http_max_conns_per_client": 10000},
            "disable_update_check": True,
            "leave_on_terminate": False,
        }
        command = [
            *("consul", "agent", "-server", f"-bootstrap-expect={servers}"),
            *(f"-node=consul-{number}", f"-bind={self.host}", f"-client={self.host}"),
            *(f"-data-dir={self.data}", "-dns-port=-1", "-grpc-port=-1"),
            *("-serf-wan-port=-1", "-log-level=err"),
            "-hcl=" + json.dumps(settings),
            *(f"-retry-join=127.0.0.{n}" for n in range(1, servers + 1) if servers > 1),
        ]
        super().__init__(command, folder / f"consul-{number}.log")
        self.url = f"http://{self.host}:8500"

    async def open(self) -> None:
        """Start, and wait for a leader."""
        self.start()
        await until(self.has_leader, "Consul has a leader")

    async def has_leader(self) -> bool:
        """Whether it answers with authority. An error if it has ended."""
        if not self.runs:
            raise RuntimeError(f"Consul ended:\n{self.log.read_text()[:1500]}")
        return "consul" in (await self.get("catalog/services?consistent") or {})

    def wipe(self) -> None:
        """Lose everything; it must not run."""
        shutil.rmtree(self.data, ignore_errors=True)

    async def get(self, path: str) -> Any:
        """What Consul says; None if it has no such thing."""
        async with (
            aiohttp.ClientSession(timeout=_QUIET) as http,
            http.get(f"{self.url}/v1/{path}") as answer,
        ):
            return (
                await answer.json(content_type=None) if answer.status == 200 else None
            )

    async def put(self, path: str, body: Any = None) -> Any:
        """Write; a text goes as it is, everything else as JSON."""
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        async with (
            aiohttp.ClientSession(timeout=_QUIET) as http,
            http.put(
                f"{self.url}/v1/{path}", data="" if body is None else data
            ) as answer,
        ):
            text = await answer.text()
            if answer.status != 200:
                raise ValueError(f"Consul: {path}: {answer.status} {text}")
            return text

    async def delete(self, path: str) -> None:
        """Remove."""
        async with (
            aiohttp.ClientSession(timeout=_QUIET) as http,
            http.delete(f"{self.url}/v1/{path}") as answer,
        ):
            answer.raise_for_status()


class Plane(Child):
    """A control plane, at an address of its own on the mesh network."""

    def __init__(
        self,
        folder: Path,
        number: int,
        consul: str,
        *,
        source: Path,
        leaf_lifetime: str = "24h",
        config: Path | None = None,
        debug_paths: tuple[str, ...] = (),
    ) -> None:
        self.number, self.state = number, folder / f"plane-{number}"
        self.address = f"10.77.0.{10 + number}"
        self.trust = folder / "trust"
        self.api = f"http://127.0.0.1:{8080 + number}"
        self.debug = f"http://127.0.0.1:{15100 + number}"
        passphrase = folder / "passphrase"
        passphrase.write_text("a long and secret phrase of the fault suite\n")
        passphrase.chmod(0o600)
        command = [
            *(sys.executable, "-m", "dockermesh", "control-plane", "--no-registrar"),
            *("--xds-address", f"{self.address}:{XDS_PORT}"),
            *("--api-address", self.api.removeprefix("http://")),
            *("--debug-address", self.debug.removeprefix("http://")),
            *("--state-dir", str(self.state), "--trust-dir", str(self.trust)),
            *("--ca-passphrase-file", str(passphrase)),
            *("--leaf-lifetime", leaf_lifetime),
            *(("--config", str(config)) if config else ()),
        ]
        environment = {
            "CONSUL_HTTP_ADDR": consul,
            "PYTHONPATH": os.pathsep.join([*debug_paths, str(source)]),
            # Else what is in the working directory, the checkout, comes first.
            "PYTHONSAFEPATH": "1",
        }
        self._source = source
        super().__init__(command, folder / f"plane-{number}.log", environment)

    async def open(self) -> None:
        """Start, and wait until it is ready."""
        self.start()
        await self.wait_ready()

    def check_source(self) -> None:
        """Raises RuntimeError where it would run other sources than it was given."""
        command = (
            sys.executable,
            "-c",
            "import dockermesh; print(dockermesh.__file__)",
        )
        found = Path(self.output_of(*command).strip())
        if not found.is_relative_to(self._source):
            raise RuntimeError(f"control plane {self.number} would run {found}")

    async def wait_ready(self) -> float:
        """Wait until it serves proxies; the seconds that it took."""
        return await until(self.is_ready, f"control plane {self.number} is ready")

    async def is_ready(self) -> bool:
        """Whether it serves proxies. An error if it has ended."""
        if not self.runs:
            raise RuntimeError(
                f"control plane {self.number} ended ({self.process and self.process.poll()}):"
                f"\n{self.log.read_text()[-1500:]}"
            )
        async with (
            aiohttp.ClientSession(timeout=_QUIET) as http,
            http.get(f"{self.debug}/readyz") as answer,
        ):
            return answer.status == 200

    @property
    def token(self) -> str:
        """Opens the API and the debug pages."""
        return (self.state / "api.token").read_text().strip()

    async def ask(
        self, method: str, path: str, body: Any = None, *, base: str = ""
    ) -> tuple[int, Any]:
        """A request to the API: its status and its JSON, or text."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=_QUIET) as http,
            http.request(method, f"{base or self.api}{path}", json=body) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text[:1] in "{[" else text

    async def page(self, path: str) -> Any:
        """A debug page."""
        status, answer = await self.ask("GET", path, base=self.debug)
        if status != 200:
            raise ValueError(f"{path}: {status} {answer}")
        return answer

    async def metric(self, name: str) -> float:
        """The sum over all labels of a metric."""
        text = await self.page("/metrics")
        lines = [
            line
            for line in str(text).splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def synced(self) -> set[str]:
        """The proxies that have everything that this control plane has for them."""
        return {
            proxy["proxy"]
            for proxy in await self.page("/debug/syncz")
            if proxy["state"] == "SYNCED"
        }

    async def connected(self) -> set[str]:
        """The proxies that are connected."""
        return {proxy["proxy"] for proxy in await self.page("/debug/syncz")}

    async def apply(self, *documents: Mapping[str, Any]) -> None:
        """Write resources, whether or not they are there."""
        for document in documents:
            path = f"{collection(document)}/{document['metadata']['name']}"
            status, found = await self.ask("GET", path)
            if status == 200:
                body = {**found, "spec": document["spec"]}
                status, answer = await self.ask("PUT", path, body)
            else:
                status, answer = await self.ask(
                    "POST", collection(document), dict(document)
                )
            if status not in {200, 201}:
                raise ValueError(f"{path}: {status} {answer}")

    async def remove(self, *documents: Mapping[str, Any]) -> None:
        """Delete resources."""
        for document in documents:
            await self.ask(
                "DELETE", f"{collection(document)}/{document['metadata']['name']}"
            )


def collection(document: Mapping[str, Any]) -> str:
    """Where resources of its kind are, in the API."""
    kind = str(document["kind"]).lower()
    is_regular = not kind.endswith(("cy", "ry"))
    plural = f"{kind}s" if is_regular else f"{kind[:-1]}ies"
    namespace = document["metadata"].get("namespace", "default")
    return f"/apis/{document['apiVersion']}/namespaces/{namespace}/{plural}"


def give_addresses(count: int) -> None:
    """The addresses of so many control planes."""
    for number in range(1, count + 1):
        add_address(f"10.77.0.{10 + number}")
