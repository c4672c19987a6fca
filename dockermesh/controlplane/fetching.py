"""How the control plane fetches what a resource of the config names by a URL.

Invariant: a fetch is bounded in size, verifies TLS, and never reaches link-local addresses, where
clouds answer with credentials: what is checked is what is connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from dockermesh.errors import DockermeshError
from dockermesh.http.bodies import TooLarge, read_bounded

_METADATA = (
    *(
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
    ),
    *("0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8"),
)
_FORBIDDEN = tuple(ipaddress.ip_network(text) for text in _METADATA)
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def session(headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """What fetches with these headers."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=_GuardedResolver(), ttl_dns_cache=10),
        # Nothing is unpacked here: a small answer must not become a large one.
        auto_decompress=False,
        headers={
            "Accept-Encoding": "identity",
            "User-Agent": "dockermesh",
            **headers,
        },
    )


@asynccontextmanager
async def patient(url: str, limit: float) -> AsyncIterator[None]:
    """What is fetched meanwhile may take `limit` seconds; what goes wrong is a DockermeshError."""
    try:
        async with asyncio.timeout(limit):
            yield
    except TimeoutError:
        raise DockermeshError(
            f"{url} did not answer within {limit:g} s", fix="check that it is up"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise DockermeshError(
            f"{url}: {error}", fix="check the URL, and that it can be reached"
        ) from None


async def get(
    session: aiohttp.ClientSession, url: str, largest: int, *, redirects: int = 0
) -> bytes:
    """What is at a URL, at most `largest` bytes. Raises DockermeshError; use it under `patient`."""
    _check_literal(url)
    # Each step is checked: a redirect could lead to where the URL itself may not.
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status == 200:
            return await _body(answer, url, largest)
        target = answer.headers.get("location", "")
        if answer.status not in _REDIRECTS or not redirects or not target:
            fix = "check the URL" if redirects else "name the last URL"
            more = "" if redirects else "; redirects are not followed"
            raise DockermeshError(f"{url} answered {answer.status}{more}", fix=fix)

    onward = urljoin(url, target)
    if urlsplit(url).scheme == "https" and urlsplit(onward).scheme != "https":
        raise DockermeshError(f"{url} leads to {onward}, without TLS", fix="name it")
    return await get(session, onward, largest, redirects=redirects - 1)


async def _body(answer: aiohttp.ClientResponse, url: str, largest: int) -> bytes:
    try:
        return await read_bounded(answer.content, largest)
    except TooLarge:
        raise DockermeshError(
            f"{url} is larger than {largest >> 20} MiB", fix="check the URL"
        ) from None


def _check_literal(url: str) -> None:
    host = urlsplit(url).hostname
    if host is not None:
        with contextlib.suppress(ValueError):
            # A literal address needs no resolver, and so would not be checked by it.
            _check(ipaddress.ip_address(host), url)


def _check(address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str) -> None:
    """Raises DockermeshError for an address that must not be reached."""
    if isinstance(address, ipaddress.IPv6Address):
        # NAT64: the address that is meant is in the last four bytes.
        if address in _TRANSLATED:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        else:
            address = address.ipv4_mapped or address.sixtofour or address
    if any(address in network for network in _FORBIDDEN):
        raise DockermeshError(
            f"{host} is at {address}, which is never fetched from",
            fix="use another URL",
        )


class _GuardedResolver(AbstractResolver):
    """Names to addresses that may be reached."""

    def __init__(self) -> None:
        self._resolver: Any = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self._resolver is None:
            self._resolver = ThreadedResolver()
        found: list[ResolveResult] = await self._resolver.resolve(host, port, family)
        for entry in found:
            _check(ipaddress.ip_address(entry["host"].partition("%")[0]), host)
        return found

    async def close(self) -> None:
        """Nothing is held open."""
