"""The ports that speak xDS: one over TLS with tokens; on request one without both, on loopback.

Invariant: they are told of by one `publish`, and asked about as if they were one.
"""

from __future__ import annotations

import asyncio
from collections.abc import KeysView, Mapping

import grpc
import structlog

from dockermesh.errors import DockermeshError
from dockermesh.runtime.repeats import Repeats
from dockermesh.xds import AdsServer, NodeInfo, ProxyStatus, Sync
from dockermesh.xds.server import Authorize, Lookup, OnNack
from dockermesh.xds.timings import Changes

log = structlog.get_logger(__name__)


class XdsServers:
    """Both servers; nothing listens before `start`."""

    def __init__(
        self, authorize: Authorize, on_nack: OnNack, repeats: Repeats | None = None
    ) -> None:
        self.attested = AdsServer(authorize=authorize, on_nack=on_nack, repeats=repeats)
        self._plaintext = AdsServer(authorize=_anonymous)
        self.is_listening = False
        self.plaintext_port = 0

    async def start(
        self, address: str, credentials: grpc.ServerCredentials, plaintext: str = ""
    ) -> None:
        """Listen; with an address for `plaintext` there, too. Raises DockermeshError when one is
        taken.
        """
        _bind(self.attested, address, credentials)
        await self.attested.start()

        if plaintext:
            self.plaintext_port = _bind(self._plaintext, plaintext, None)
            await self._plaintext.start()
            log.warning("serving xDS without TLS and without tokens", address=plaintext)

        # Last: readiness must not be told before both ports take connections.
        self.is_listening = True

    async def stop(self) -> None:
        """End all streams."""
        await asyncio.gather(self.attested.stop(), self._plaintext.stop())

    def publish(
        self,
        attested: Lookup,
        anonymous: Lookup,
        mark: object,
        changes: Changes | None = None,
    ) -> None:
        """Give every connected proxy what it is to have now, made of `mark`, after `changes`."""
        self.attested.publish(attested, mark, changes)
        self._plaintext.publish(anonymous)

    @property
    def anonymous(self) -> KeysView[str]:
        """The keys of all that are connected without a token."""
        return self._plaintext.connected

    @property
    def connected(self) -> frozenset[str]:
        """The keys of all that are connected with a token."""
        return frozenset(self.attested.connected)

    def proxies(self) -> list[ProxyStatus]:
        """All connected proxies."""
        return [*self.attested.proxies(), *self._plaintext.proxies()]

    def sync(self) -> Sync:
        """How far all proxies are."""
        one, two = self.attested.sync(), self._plaintext.sync()
        return Sync(
            one.connected + two.connected,
            one.pending + two.pending,
            one.nacked + two.nacked,
        )


async def _anonymous(_metadata: Mapping[str, str], node: NodeInfo, _peer: str) -> str:
    return node.id


def _bind(
    server: AdsServer, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        port = server.add_port(address, credentials)
    except RuntimeError as error:
        raise _taken(address) from error

    # Some versions of gRPC raise, others answer with no port.
    if port == 0:
        raise _taken(address)
    return port


def _taken(address: str) -> DockermeshError:
    return DockermeshError(
        f"xDS cannot listen on {address}: the address is taken or not allowed",
        fix="stop what listens there (`ss -ltnp`), or choose another address for xDS",
    )
