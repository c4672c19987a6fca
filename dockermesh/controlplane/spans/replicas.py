"""The spans that other replicas of the control plane keep: a trace's proxies need not all be
connected to one.

Who asks shows the control plane's certificate, who answers one of the control plane's name.
Invariant: memory and time are bounded for each replica; one that does not answer is told of.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import aiohttp
import structlog
from aiohttp import web

from dockermesh.ca import AuthorityError
from dockermesh.errors import NotReadyError
from dockermesh.http.answers import status
from dockermesh.http.bodies import read_bounded
from dockermesh.model.contract import (
    CONTROL_PLANE_ACCOUNT,
    CONTROL_PLANE_HOST,
    SYSTEM_NAMESPACE,
)
from dockermesh.model.hosts import bracketed

log = structlog.get_logger(__name__)

PATH = "/debug/spans"
_REPLICA = "x-dockermesh-replica"
_ACCOUNT = f"/ns/{SYSTEM_NAMESPACE}/sa/{CONTROL_PLANE_ACCOUNT}"
_LARGEST = 24 << 20
_MOST = 16
_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
_FAILURES = (OSError, aiohttp.ClientError, AuthorityError, NotReadyError, ValueError)


async def addresses_of_all() -> Sequence[str]:
    """The addresses of all replicas, this one's among them: their common name has each."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            CONTROL_PLANE_HOST, None, type=socket.SOCK_STREAM
        )
    except OSError:
        return ()
    return sorted({str(entry[4][0]) for entry in found})


@dataclass(frozen=True, slots=True)
class Kept:
    """Spans of other replicas as JSON, and at which addresses nobody told any."""

    texts: tuple[bytes, ...] = ()
    silent: tuple[str, ...] = ()


class Replicas:
    """This replica's way to the others, and what it tells them."""

    def __init__(
        self,
        port: int,
        tls: Callable[[], ssl.SSLContext],
        addresses: Callable[[], Awaitable[Sequence[str]]] = addresses_of_all,
    ) -> None:
        """`port` is where all take spans; `tls` is how they are asked; it
        checks the name of who answers."""
        self._port = port
        self._tls = tls
        self._addresses = addresses
        self._name = secrets.token_hex(8)

    def answer(self, sender: str, texts: Iterable[bytes]) -> web.Response:
        """What is kept here, for the control plane alone."""
        if not sender.endswith(_ACCOUNT):
            return status(403, "Forbidden", "only the control plane reads spans here")
        # JSON has no line ends of its own.
        return web.Response(body=b"\n".join(texts), headers={_REPLICA: self._name})

    async def kept(self) -> Kept:
        """What the others keep. Nobody is asked where there is one address: it is this one's."""
        addresses = (await self._addresses())[:_MOST]
        if len(addresses) < 2:
            return Kept()
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            asked = (self._ask(session, address) for address in addresses)
            answers = await asyncio.gather(*asked)
        found = zip(addresses, answers, strict=True)
        silent = tuple(address for address, texts in found if texts is None)
        return Kept(tuple(text for texts in answers for text in texts or ()), silent)

    async def _ask(
        self, session: aiohttp.ClientSession, address: str
    ) -> list[bytes] | None:
        """Its spans; none if it is this one, None if it does not tell."""
        url = f"https://{bracketed(address)}:{self._port}{PATH}"
        try:
            async with session.get(
                url, ssl=self._tls(), server_hostname=CONTROL_PLANE_HOST
            ) as answer:
                answer.raise_for_status()
                if answer.headers.get(_REPLICA) == self._name:
                    return []
                body = await read_bounded(answer.content, _LARGEST)
        except _FAILURES as error:
            log.debug("a replica tells no spans", address=address, reason=str(error))
            return None
        return body.split(b"\n") if body else []
