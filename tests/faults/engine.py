"""What a registrar makes of a real engine: thousands of starts and stops, reused addresses, and a
socket behind a filter that lets nothing through but reading.

    scripts/lab faults start
    DOCKER_HOST=$(scripts/lab faults socket) python tests/faults/engine.py          # an hour
    DOCKER_HOST=$(scripts/lab faults socket) python tests/faults/engine.py --starts 100

Prints a row per fault and exits with 1 if one is violated. It is not a part of `make faults`, since
it needs an engine that nobody else uses. Consul and the registrar run beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IMAGE, NETWORK, OTHER = "faults-idle:1", "faults-net", "faults-other"
PORT, CONSUL = 80, "http://127.0.0.1:18500"
READING = ("/containers/", "/events", "/info", "/version", "/_ping")
"""What the filter lets through, by GET; the rest is answered 403."""
IDLE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


@dataclass
class Rig:
    """The engine, through the filter for the registrar alone, and Consul."""

    http: aiohttp.ClientSession
    consul: aiohttp.ClientSession
    registrar: subprocess.Popen[bytes]
    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    async def engine(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the engine; an error for what it refuses."""
        async with self.http.request(method, f"http://d{path}", json=body) as answer:
            text = await answer.text()
            if answer.status >= 400 and answer.status != 404:
                raise RuntimeError(f"{method} {path}: {answer.status} {text}")
            return json.loads(text) if text.startswith(("{", "[")) else text

    async def expected(self) -> dict[str, str]:
        """Names and addresses of what runs, as the engine says."""
        listing = await self.engine("GET", "/containers/json")
        return {
            c["Names"][0].strip("/"): _address(c["NetworkSettings"]["Networks"])
            for c in listing
            if c["Image"] == IMAGE
        }

    async def registered(self) -> list[tuple[str, str]]:
        """Names and addresses of what Consul's agent has."""
        async with self.consul.get(f"{CONSUL}/v1/agent/services") as answer:
            services = await answer.json(content_type=None)
        return sorted(
            (s["ID"].split(":")[1], s["Address"])
            for s in services.values()
            if ":" in s["ID"]
        )

    async def is_exact(self) -> bool:
        """Whether Consul has what runs, each once, and nothing else."""
        return await self.registered() == sorted((await self.expected()).items())


def _address(networks: dict[str, Any]) -> str:
    return next((n["IPAddress"] for n in networks.values() if n.get("IPAddress")), "")


async def within(
    condition: Callable[[], Awaitable[object]], what: str, seconds: float = 120
) -> float:
    """Wait; the seconds that it took."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """Everything up, and gone afterwards."""
    engine = os.environ["DOCKER_HOST"].removeprefix("unix://")
    asked: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(engine)) as http,
        aiohttp.ClientSession() as consul,
        _filter(folder / "docker.sock", engine, asked, refused),
    ):
        with _consul(folder), _registrar(folder) as registrar:
            made = Rig(http, consul, registrar, asked, refused)
            await _image(folder, made)
            try:
                yield made
            finally:
                await _clean(made)


@contextlib.asynccontextmanager
async def _filter(
    path: Path, engine: str, asked: Counter[str], refused: Counter[str]
) -> AsyncIterator[None]:
    """A socket that passes on what only reads."""
    http = aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(engine, limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )

    async def passed(request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/", 2)
        bare = f"/{parts[2]}" if parts[1].startswith("v1.") else request.path
        kind = f"{request.method} {bare.rpartition('/')[2] or bare}"
        if request.method not in {"GET", "HEAD"} or not bare.startswith(READING):
            refused[kind] += 1
            return web.json_response({"message": "forbidden by the filter"}, status=403)
        asked[kind] += 1
        async with http.request(request.method, f"http://d{request.rel_url}") as answer:
            back = web.StreamResponse(
                status=answer.status,
                headers={"Content-Type": answer.headers.get("Content-Type", "")},
            )
            await back.prepare(request)
            with contextlib.suppress(ConnectionError):
                async for piece in answer.content.iter_any():
                    await back.write(piece)
            return back

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", passed)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()
        await http.close()


@contextlib.contextmanager
def _consul(folder: Path) -> Any:
    command = [
        *("consul", "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1"),
        *("-http-port=18500", "-dns-port=-1", "-grpc-port=-1", "-serf-lan-port=18301"),
        *("-serf-wan-port=-1", "-server-port=18300", "-log-level=err"),
    ]
    with _running(command, folder / "consul.log") as process:
        yield process


@contextlib.contextmanager
def _registrar(folder: Path) -> Any:
    command = [sys.executable, "-m", "dockermesh", "registrar", "--internal"]
    environment = {
        "DOCKER_HOST": f"unix://{folder / 'docker.sock'}",
        "CONSUL_HTTP_ADDR": CONSUL,
        "PYTHONPATH": str(ROOT),
    }
    with _running(
        [*command, "--hostname", "faults", "--network", NETWORK],
        folder / "registrar.log",
        environment,
    ) as process:
        yield process


@contextlib.contextmanager
def _running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Any:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        # Not asked to: it would wait for its last calls, which this process answers.
        process.kill()
        process.wait()


async def _image(folder: Path, made: Rig) -> None:
    """An image of one small program, which ends when it is killed."""
    (folder / "idle.c").write_text(IDLE)
    build = [
        "gcc",
        "-static",
        "-Os",
        "-o",
        str(folder / "idle"),
        str(folder / "idle.c"),
    ]
    process = await asyncio.create_subprocess_exec(*build)
    assert await process.wait() == 0, "no C compiler"
    with tarfile.open(folder / "image.tar", "w") as tar:
        tar.add(folder / "idle", "idle")
    changes = ('CMD ["/idle"]', f"EXPOSE {PORT}")
    query = "&".join(f"changes={c}" for c in changes)
    name, tag = IMAGE.split(":")
    content = (folder / "image.tar").read_bytes()
    url = f"http://d/images/create?fromSrc=-&repo={name}&tag={tag}&{query}"
    async with made.http.post(url, data=content) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    for network in (NETWORK, OTHER):
        await made.engine("POST", "/networks/create", {"Name": network})


async def _clean(made: Rig) -> None:
    for container in await made.engine("GET", "/containers/json?all=1"):
        if container["Image"] == IMAGE:
            await made.engine("DELETE", f"/containers/{container['Id']}?force=1")
    for network in (NETWORK, OTHER):
        await made.engine("DELETE", f"/networks/{network}")


async def create(made: Rig, name: str, address: str = "") -> None:
    """A container that is not started."""
    wanted = {"IPAMConfig": {"IPv4Address": address}} if address else {}
    body = {
        "Image": IMAGE,
        "StopSignal": "SIGKILL",
        "Env": [f"SERVICE_NAME={name.rpartition('-')[0]}"],
        "HostConfig": {"NetworkMode": NETWORK},
        "NetworkingConfig": {"EndpointsConfig": {NETWORK: wanted}},
    }
    await made.engine("POST", f"/containers/create?name={name}", body)


async def storm(made: Rig, starts: int, longest: float) -> list[str]:
    """F14: many start and stop at once, some of it while the registrar sees nothing."""
    names = [f"storm-{n}" for n in range(60)]
    for name in names:
        await create(made, name)
    done = 0
    began = time.monotonic()
    # Reproducible, and each container has its own pace.
    rng = random.Random(14)

    async def cycle(mine: list[str]) -> None:
        nonlocal done
        while done < starts and time.monotonic() - began < longest:
            done += 1
            name = rng.choice(mine)
            await made.engine("POST", f"/containers/{name}/start")
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random())
            await made.engine("POST", f"/containers/{name}/stop?t=0")

    async def blind() -> None:
        """Stopped for a third of the time: an engine keeps 256 events for who was away."""
        while True:
            await asyncio.sleep(40)
            made.registrar.send_signal(signal.SIGSTOP)
            await asyncio.sleep(20)
            made.registrar.send_signal(signal.SIGCONT)

    blinding = asyncio.create_task(blind())
    workers = 8
    await asyncio.gather(*(cycle(names[n::workers]) for n in range(workers)))
    blinding.cancel()
    took = time.monotonic() - began
    kept = names[:25]
    for name in kept:
        await made.engine("POST", f"/containers/{name}/start")
    made.registrar.send_signal(signal.SIGCONT)
    exact = await within(made.is_exact, "Consul has what runs")
    await asyncio.sleep(35)  # one comparison of everything later it is the same
    assert await made.is_exact(), "it was exact, and is not any more"
    addresses = [address for _, address in await made.registered()]
    assert len(set(addresses)) == len(addresses), "an address is there twice"
    for name in names:
        await made.engine("DELETE", f"/containers/{name}?force=1")
    await within(made.is_exact, "all are gone")
    return [
        f"{done} starts and stops in {took:.0f} s, {workers} at a time, the registrar"
        f" stopped for a third of it;"
        f" Consul exact {exact:.1f} s after the last"
    ]


async def reuse(made: Rig, rounds: int) -> list[str]:
    """F16: an address goes from one container to another; renamed, moved, paused, looping."""
    notes: list[str] = []
    slowest = 0.0
    for number in range(rounds):
        old, new = f"old-{number}", f"new-{number}"
        await create(made, old)
        await made.engine("POST", f"/containers/{old}/start")
        await within(made.is_exact, "the first is registered")
        address = (await made.expected())[old]
        await made.engine("DELETE", f"/containers/{old}?force=1")
        await create(made, new)
        await made.engine("POST", f"/containers/{new}/start")
        again = (await made.expected())[new]
        assert again == address, f"the engine gave {again}, not {address} again"
        slowest = max(slowest, await within(made.is_exact, "the second is registered"))
        await made.engine("DELETE", f"/containers/{new}?force=1")
    notes.append(f"{rounds} addresses reused: right after {slowest:.1f} s at most")

    await create(made, "mover-1")
    await made.engine("POST", "/containers/mover-1/start")
    await within(made.is_exact, "the mover is registered")
    await made.engine("POST", "/containers/mover-1/rename?name=renamed-1")
    notes.append(f"renamed: {await within(made.is_exact, 'the new name'):.1f} s")
    for way, network in (("connect", OTHER), ("disconnect", NETWORK)):
        await made.engine(
            "POST", f"/networks/{network}/{way}", {"Container": "renamed-1"}
        )
    notes.append(f"moved: {await within(made.is_exact, 'the new network'):.1f} s")
    await made.engine("DELETE", "/containers/renamed-1?force=1")
    return notes


async def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--starts", type=int, default=2000)
    parser.add_argument(
        "--longest", type=float, default=3600, help="seconds of starts and stops"
    )
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dockermesh-engine-"))
    failed = False
    try:
        async with rig(folder) as made:
            for key, work in (
                ("F16", reuse(made, args.rounds)),
                ("F14", storm(made, args.starts, args.longest)),
            ):
                try:
                    notes = await work
                except (AssertionError, TimeoutError, RuntimeError) as error:
                    failed, notes = True, [f"VIOLATED: {error}"]
                    want = sorted((await made.expected()).items())
                    notes.append(f"runs {want}, has {await made.registered()}")
                print(f"| {key} | {'; '.join(notes)} |", flush=True)
            asked = ", ".join(f"{n} {kind}" for kind, n in sorted(_kinds(made.asked)))
            told = ", ".join(f"{n} {kind}" for kind, n in sorted(_kinds(made.refused)))
            print(f"| S13 | passed: {asked}; refused: {told or 'nothing'} |")
    finally:
        if failed:
            print((folder / "registrar.log").read_text()[-3000:], file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


def _kinds(counted: Counter[str]) -> list[tuple[str, int]]:
    return list(counted.items())


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
