"""A real Prometheus, and what finds proxies for it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, web
from patience import SLACK
from ports import free_ports

from dockermesh.controlplane.telemetry.targets import targets
from dockermesh.model import Workload


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    session: ClientSession
    url: str

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer to a query; none while it is not there. Raises ValueError for a query that it
        does not read.
        """
        try:
            async with self.session.post(
                f"{self.url}/api/v1/query", data={"query": query}
            ) as got:
                answer = await got.json()
        except (ClientError, OSError):
            return []
        if answer["status"] != "success":
            raise ValueError(f"{query}: {answer['error']}")
        return list(answer["data"]["result"])

    async def ask(self, query: str, label: str = "pod") -> dict[str, float]:
        """The values by a label."""
        return {
            row["metric"].get(label, ""): float(row["value"][1])
            for row in await self.rows(query)
        }


@asynccontextmanager
async def prometheus(folder: Path, config: str) -> AsyncIterator[Prometheus]:
    """One with this configuration."""
    (port,) = free_ports(1)
    file = folder / "prometheus.yml"
    file.write_text(config)
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(shutil.which("prometheus")),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stderr=log,
        )
    try:
        async with ClientSession() as session:
            yield Prometheus(session, f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def listing(
    workloads: Callable[[], Iterable[Workload]], token: str
) -> AsyncIterator[str]:
    """The URL of a page that lists these workloads' proxies for who has the token."""

    async def listed(asked: web.Request) -> web.Response:
        if asked.headers["authorization"] != f"Bearer {token}":
            return web.Response(status=401)
        return web.json_response(targets(workloads()))

    app = web.Application()
    app.router.add_get("/telemetry/targets", listed)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/telemetry/targets"
    finally:
        await runner.cleanup()


def proxies_job(folder: Path, listed_at: str, every: str = "3s") -> str:
    """The part of a configuration that finds and asks proxies, with the files in this folder."""
    return f"""
- job_name: proxies
  scrape_interval: {every}
  scrape_timeout: {every}
  tls_config: {{cert_file: {folder}/prometheus.pem, key_file: {folder}/prometheus.pem,
    ca_file: {folder}/root.pem, insecure_skip_verify: true}}
  http_sd_configs:
  - url: {listed_at}
    refresh_interval: 1s
    authorization: {{type: Bearer, credentials_file: {folder}/token}}
"""


async def silent(reader: Prometheus, asked: dict[str, str]) -> dict[str, str]:
    """Those queries that give no number, after a while in which they could."""
    left = asked
    with suppress(TimeoutError):
        async with asyncio.timeout(3 * SLACK):
            while left:
                rows = {
                    title: await reader.rows(query) for title, query in left.items()
                }
                left = {t: asked[t] for t, found in rows.items() if not _tells(found)}
                await asyncio.sleep(0.3)
    return left


def _tells(rows: list[dict[str, Any]]) -> bool:
    return any(row["value"][1] != "NaN" for row in rows)
