"""Key sets of token issuers, fetched by the control plane so that proxies never have to.

Invariants:
- The last good set is kept: a server that is down, slow, or answers with something else changes
  nothing.
- A fetch is bounded in time and size, verifies TLS, follows no redirect, and goes nowhere that
  `fetching` forbids.
- Sources do not wait for each other, and nothing else waits for any of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

import aiohttp
import structlog

from dockermesh.controlplane.fetching import get, patient, session
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
_HEADERS = {"Accept": "application/json"}

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
        async with session(_HEADERS) as fetching, asyncio.TaskGroup() as tasks:
            while True:
                self._news.clear()
                # Nobody names it any more: tokens of this issuer are not accepted by anybody.
                for gone in followed.keys() - self._wanted.keys():
                    followed.pop(gone).cancel()
                    self._forget(gone)
                for source in self._wanted.keys() - followed.keys():
                    followed[source] = tasks.create_task(
                        self._follow(fetching, source), name=f"keys of {source}"
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


async def fetch_keys(session: aiohttp.ClientSession, source: str, limit: float) -> str:
    """The usable keys at a URL; where it is an issuer's discovery document, those that it refers
    to.

    `limit` is the time for all of it, in seconds. Raises DockermeshError when there is nothing
    usable.
    """
    async with patient(source, limit):
        text = await _get(session, source)
        if source.endswith(DISCOVERY_PATH):
            issuer = source.removesuffix(DISCOVERY_PATH)
            text = await _get(session, _discovered(text, issuer))

    keys = usable_keys(text)
    if not keys:
        raise DockermeshError(
            f"{source} has no usable key", fix="it must answer with a JSON Web Key Set"
        )

    return keys


async def _get(session: aiohttp.ClientSession, url: str) -> str:
    return (await get(session, url, _LARGEST)).decode()


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
