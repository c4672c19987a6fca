"""Key sets of token issuers, fetched by the control plane so that proxies never have to.

Invariants:
- The last good set is kept: a server that is down, slow, or answers with something else changes
  nothing.
- A fetch is bounded in time and size, verifies TLS, follows no redirect, and never reaches
  link-local addresses, where clouds answer with credentials.
- Sources do not wait for each other, and nothing else waits for any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from dockermesh.errors import DockermeshError
from dockermesh.runtime.backoff import Backoff
from dockermesh.translate.security.jwt import DISCOVERY_PATH
from dockermesh.translate.security.key_sets import usable_keys

REFRESH_S = 20 * 60.0
"""How long a fetched set is used before it is fetched again (Istio:
PILOT_JWT_PUB_KEY_REFRESH_INTERVAL).
"""
_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_LARGEST = 1 << 20
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

log = structlog.get_logger(__name__)


class KeySets:
    """Follows the sources that are wanted; `changed` is called with all known sets whenever one is
    new.
    """

    def __init__(
        self,
        changed: Callable[[Mapping[str, str]], None],
        *,
        refresh: float = REFRESH_S,
        retry: float = _RETRY_S,
    ) -> None:
        self._changed = changed
        self._refresh = refresh
        self._retry = retry
        self._known: Mapping[str, str] = MappingProxyType({})
        self._wanted: Mapping[str, float] = {}
        self._news = asyncio.Event()
        self.failing: dict[str, str] = {}

    def want(self, sources: Mapping[str, float]) -> None:
        """The sources from now on, with the time limit of each in seconds."""
        if sources != self._wanted:
            self._wanted = dict(sources)
            self._news.set()

    async def run(self) -> None:
        """Follow the sources until cancelled."""
        followed: dict[str, asyncio.Task[None]] = {}
        async with _session() as session, asyncio.TaskGroup() as tasks:
            while True:
                self._news.clear()
                # Nobody names it any more: tokens of this issuer are not accepted by anybody.
                for gone in followed.keys() - self._wanted.keys():
                    followed.pop(gone).cancel()
                    self._forget(gone)
                for source in self._wanted.keys() - followed.keys():
                    followed[source] = tasks.create_task(
                        self._follow(session, source), name=f"keys of {source}"
                    )
                await self._news.wait()

    async def _follow(self, session: aiohttp.ClientSession, source: str) -> None:
        backoff = Backoff(self._retry, _LAST_RETRY_S, jitter=0.0)
        while True:
            try:
                keys = await fetch_keys(session, source, self._wanted.get(source, 5.0))
            except DockermeshError as error:
                # Once per outage, not per attempt.
                if source not in self.failing:
                    log.warning(
                        "the keys of tokens cannot be fetched; trying again",
                        source=source,
                        reason=str(error),
                    )
                self.failing[source] = str(error)
                await asyncio.sleep(backoff.next())
                continue

            self.failing.pop(source, None)
            backoff.reset()
            # Equal keys are no change, or every refresh would be a push.
            if self._known.get(source) != keys:
                self._known = MappingProxyType({**self._known, source: keys})
                self._changed(self._known)

            await asyncio.sleep(self._refresh)

    def _forget(self, source: str) -> None:
        self.failing.pop(source, None)
        if source in self._known:
            self._known = MappingProxyType(
                {s: keys for s, keys in self._known.items() if s != source}
            )


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=_GuardedResolver(), ttl_dns_cache=10),
        # Nothing is unpacked here: a small answer must not become a large one.
        auto_decompress=False,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "dockermesh",
        },
    )


async def fetch_keys(session: aiohttp.ClientSession, source: str, limit: float) -> str:
    """The usable keys at a URL; where it is an issuer's discovery document, those that it refers
    to.

    `limit` is the time for all of it, in seconds. Raises DockermeshError when there is nothing
    usable.
    """
    try:
        async with asyncio.timeout(limit):
            text = await _get(session, source)
            if source.endswith(DISCOVERY_PATH):
                text = await _get(
                    session, _discovered(text, source.removesuffix(DISCOVERY_PATH))
                )
    except TimeoutError:
        raise DockermeshError(
            f"{source} did not answer within {limit:g} s", fix="check that it is up"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise DockermeshError(
            f"{source}: {error}", fix="check the URL, and that it can be reached"
        ) from None

    keys = usable_keys(text)
    if not keys:
        raise DockermeshError(
            f"{source} has no usable key", fix="it must answer with a JSON Web Key Set"
        )

    return keys


async def _get(session: aiohttp.ClientSession, url: str) -> str:
    host = urlsplit(url).hostname
    if host is not None:
        with contextlib.suppress(ValueError):
            # A literal address needs no resolver, and so would not be checked by it.
            _check(ipaddress.ip_address(host), url)

    # A redirect could lead to where the URL itself may not.
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise DockermeshError(
                f"{url} answered {answer.status}",
                fix="redirects are not followed: name the last URL",
            )

        body = bytearray()
        # Read in parts: the length that a server tells may be anything.
        async for part in answer.content.iter_chunked(1 << 16):
            body.extend(part)
            if len(body) > _LARGEST:
                raise DockermeshError(
                    f"{url} is larger than 1 MiB", fix="name the URL of a key set"
                )

        return body.decode()


def _discovered(text: str, issuer: str) -> str:
    document = json.loads(text)
    if (
        not isinstance(document, dict)
        or str(document.get("issuer", "")).rstrip("/") != issuer
    ):
        raise DockermeshError(
            f"the discovery document of {issuer} is that of another issuer",
            fix="set jwksUri",
        )
    url = document.get("jwks_uri")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise DockermeshError(
            f"the discovery document of {issuer} has no jwks_uri", fix="set jwksUri"
        )
    return url


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
    """Names to addresses that may be reached: what is checked is what is connected to."""

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
