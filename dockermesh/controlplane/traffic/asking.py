"""How a proxy is asked for its metrics: over mutual TLS, within bounds of time and size."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import aiohttp

from dockermesh.controlplane.telemetry.targets import METRICS_PATH
from dockermesh.http.bodies import read_bounded
from dockermesh.model.hosts import bracketed

TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
CLOSE = {"connection": "close"}
_LARGEST = 16 * 1024 * 1024
FAILURES = (OSError, aiohttp.ClientError, ValueError)
"""What `page_of` raises of a proxy that does not answer as it should."""


async def page_of(
    session: aiohttp.ClientSession,
    place: tuple[str, int],
    tls: ssl.SSLContext,
    wanted: str,
    headers: Mapping[str, str],
) -> str:
    """The page of the proxy at this address and port; `wanted` is an expression on the names of
    metrics.
    """
    address, port = place
    url = f"https://{bracketed(address)}:{port}{METRICS_PATH}"
    async with session.get(
        url, params={"filter": wanted}, ssl=tls, headers=headers
    ) as answer:
        answer.raise_for_status()
        body = await read_bounded(answer.content, _LARGEST)
    return body.decode("utf-8", "replace")
