"""Takes spans from proxies, by HTTP as Zipkin does.

Who sends is known by the certificate of the connection, which the port asks for; an app has none.
Invariants: memory and work are bounded for each sender and in all; whoever sends too much is told
so late, and hears nothing else. What a proxy cannot get rid of it drops: no request waits for its
spans.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from dockermesh.controlplane.spans.forwarder import SpanForwarder
from dockermesh.controlplane.spans.rate import Rate
from dockermesh.controlplane.spans.ring import SpanRing
from dockermesh.controlplane.spans.zipkin import SPANS_PATH, NotSpans, read_spans
from dockermesh.http.answers import status
from dockermesh.model.identity import Identity

_LARGEST_BODY = 1 << 20
_PER_SECOND, _BURST, _IN_ALL = 500.0, 5_000.0, 4_000.0
_LATE_S = 1.0
_MOST_AT_ONCE = 32


class SpanReceiver:
    """Takes spans, and keeps the newest of them."""

    def __init__(
        self,
        ring: SpanRing | None = None,
        rate: Rate | None = None,
        forwarder: SpanForwarder | None = None,
    ) -> None:
        self.ring = ring or SpanRing()
        self.forwarder = forwarder or SpanForwarder("")
        self.counts: Counter[str] = Counter()
        self._rate = rate or Rate(_PER_SECOND, _BURST, _IN_ALL)
        self._at_once: Counter[str] = Counter()

    def app(self) -> web.Application:
        """The HTTP application of the port."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_post(SPANS_PATH, self._post)
        return app

    def report(self) -> dict[str, Any]:
        """What was taken and what was not, and the bounds."""
        ring = self.ring
        return {
            "spans": ring.spans,
            "bytes": ring.size,
            "most_spans": ring.most_spans,
            "most_bytes": ring.most_bytes,
            "taken": self.counts["taken"],
            "displaced": ring.dropped,
            "over_rate": self.counts["over_rate"],
            "malformed": self.counts["malformed"],
            **self._sent_on(),
        }

    def _sent_on(self) -> dict[str, Any]:
        to = self.forwarder
        if not to.url:
            return {}
        counts = {name: to.counts[name] for name in ("sent", "dropped")}
        return {"sent_on": {"url": to.url, **counts, "problem": to.problem}}

    async def _post(self, request: web.Request) -> web.StreamResponse:
        sender = sender_of(request.transport)
        if not sender:
            return status(403, "Forbidden", "only proxies of the mesh send spans here")
        if self._at_once[sender] >= _MOST_AT_ONCE:
            return _too_many()

        self._at_once[sender] += 1
        try:
            return await self._take(request, sender)
        finally:
            self._at_once[sender] -= 1
            if not self._at_once[sender]:
                del self._at_once[sender]

    async def _take(self, request: web.Request, sender: str) -> web.StreamResponse:
        if self._rate.is_spent(sender):
            # Late: who floods waits for the answer before it sends more on this connection.
            self.counts["over_rate"] += 1
            await asyncio.sleep(_LATE_S)
            return _too_many()
        # Nothing is unpacked: a small body could become a large one.
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return status(415, "UnsupportedMediaType", "send spans uncompressed")

        body = await request.read()
        try:
            spans, malformed = read_spans(body)
        except NotSpans as error:
            self.counts["malformed"] += 1
            self._rate.take(sender, 1)
            return status(400, "BadRequest", str(error))

        taken = self._rate.take(sender, len(spans))
        self._rate.take(sender, malformed)
        for span in spans[:taken]:
            self.ring.add(sender, span | {"identity": sender})
        self.forwarder.add(spans[:taken])
        self.counts["taken"] += taken
        self.counts["over_rate"] += len(spans) - taken
        self.counts["malformed"] += malformed
        return web.Response(status=202)


def sender_of(transport: Any) -> str:
    """The identity in the certificate that a connection was made with; empty without one."""
    certificate: Mapping[str, Any] = (
        transport.get_extra_info("peercert") if transport is not None else None
    ) or {}
    names = certificate.get("subjectAltName", ())
    for kind, name in names:
        with contextlib.suppress(ValueError):
            if kind == "URI":
                return str(Identity.parse(name))
    return ""


def _too_many() -> web.Response:
    return status(429, "TooManyRequests", "too many spans; they are dropped")
