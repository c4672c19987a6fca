"""A real control plane under garbage on all of its ports: it goes on answering, its log stays short and
its memory flat.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from bridge_rig import Agent, eventually
from patience import SLACK
from ports import free_ports

pytestmark = pytest.mark.consul
SECONDS = float(os.environ.get("DOCKERMESH_GARBAGE_S", "5"))
AT_ONCE = 300
GARBAGE = (
    lambda: os.urandom(4096),
    lambda: b"\x16\x03\x01\x02\x00" + os.urandom(512),
    lambda: b"\x16\x03",
    lambda: b"",
    lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(2000),
    lambda: b"GET / HTTP/1.1\r\n" + b"\xff\x00header\r\n" * 10 + b"\r\n",
    lambda: b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n",
    lambda: b"GET /x\x00 HTTP/1.1\r\n\r\n",
    lambda: _join(b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n"),
    lambda: _join(b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
    lambda: _join(b"Content-Length: 6\r\n\r\n\xff\xfe{{[["),
    lambda: _join(b"Content-Length: 99\r\n\r\n{"),
)


def _join(rest: bytes) -> bytes:
    return (
        b"POST /mesh/join HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n" + rest
    )


class Process:
    """`dockermesh control-plane`, as it runs in its container."""

    def __init__(self, folder: Path) -> None:
        self.xds, self.api, self.debug = free_ports(3)
        self.folder = folder
        self.log = folder / "log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, agent: Agent) -> None:
        flags = {
            "state-dir": str(self.folder / "state"),
            "trust-dir": str(self.folder / "trust"),
            "xds-address": f"127.0.0.1:{self.xds}",
            "api-address": f"127.0.0.1:{self.api}",
            "debug-address": f"127.0.0.1:{self.debug}",
        }
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dockermesh.cli.main", "control-plane"),
                "--no-registrar",
                *(f"--{name}={value}" for name, value in flags.items()),
                env=os.environ
                | {"CONSUL_HTTP_ADDR": f"127.0.0.1:{agent.settings.port}"},
                stdout=log,
                stderr=log,
            )
        await eventually(self.is_ready, 30)

    async def is_ready(self) -> bool:
        try:
            return await self.get(self.debug, "/readyz") == 200
        except OSError:
            return False

    async def get(self, port: int, path: str) -> int:
        token = self.folder / "state" / "api.token"
        bearer = f"Bearer {token.read_text()}" if token.exists() else "none"
        async with (
            aiohttp.ClientSession(headers={"Authorization": bearer}) as http,
            http.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status

    async def get_at_last(self, port: int, path: str) -> int:
        """As any client does, again where the connection gave way to newer ones of this peer."""
        while True:
            with contextlib.suppress(aiohttp.ServerDisconnectedError):
                return await self.get(port, path)

    def mib(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [x for x in status.splitlines() if x.startswith("VmRSS")]
        return int(line.split()[1]) // 1024

    async def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        await self.process.wait()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Process]:
    process = Process(tmp_path)
    async with Agent() as agent:
        await process.start(agent)
        yield process
        await process.stop()


async def _throw(process: Process, until: float) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_alpn_protocols(["h2", "http/1.1"])
    while asyncio.get_running_loop().time() < until:
        port = random.choice((process.xds, process.api, process.debug))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=random.choice((None, client))
                )
            try:
                writer.write(random.choice(GARBAGE)())
                async with asyncio.timeout(1):
                    await reader.read(100)
            finally:
                writer.transport.abort()


async def test_garbage_on_all_ports_leaves_no_traces_and_no_memory(
    running: Process,
) -> None:
    loop = asyncio.get_running_loop()
    answers, growth = [], []
    for _ in range(2):
        throwing = [
            asyncio.create_task(_throw(running, loop.time() + SECONDS))
            for _ in range(AT_ONCE)
        ]
        await asyncio.sleep(SECONDS / 2)
        # The operator is at the same address.
        async with asyncio.timeout(30 * SLACK):
            answers.append(await running.get_at_last(running.api, "/api"))
            answers.append(await running.get_at_last(running.debug, "/debug/syncz"))
        await asyncio.gather(*throwing)
        growth.append(running.mib())
    assert set(answers) == {200}
    lines = running.log.read_text().splitlines()
    assert not [line for line in lines if "Traceback" in line]
    assert len(lines) < 50, lines
    # What the first round needed is there for the second.
    assert growth[1] < growth[0] * 1.3, growth
