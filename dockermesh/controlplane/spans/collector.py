"""The port at which spans are taken, and the page that tells of the traces they make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from aiohttp import web

from dockermesh.ca import Authority
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.controlplane.spans.forwarder import SpanForwarder
from dockermesh.controlplane.spans.query import find_traces, wanted_of
from dockermesh.controlplane.spans.receiver import SpanReceiver, sender_of
from dockermesh.controlplane.spans.replicas import PATH as REPLICAS_PATH
from dockermesh.controlplane.spans.replicas import Kept, Replicas
from dockermesh.controlplane.trust.check_tls import CheckTls
from dockermesh.http.answers import status
from dockermesh.http.port import HttpPort, ServerTls
from dockermesh.runtime.repeats import Repeats

_MOST_CONNECTIONS = 8192
"""Of all proxies; of one address there are fewer (`http/connections.py`)."""


class SpanCollector:
    """Spans of one control plane."""

    def __init__(
        self,
        address: str,
        names: tuple[str, ...],
        to: str = "",
        replicas: Replicas | None = None,
    ) -> None:
        """Where to listen, empty for nowhere; `names` are those of the server's certificate, `to`
        is the URL of who gets the spans as well; `replicas` are other control planes.
        """
        self._replicas = replicas
        self._address = address
        self._names = names
        self.receiver = SpanReceiver(forwarder=SpanForwarder(to))

    def ports(
        self, authority: Callable[[], Authority], repeats: Repeats
    ) -> list[HttpPort]:
        """The port, for members of the mesh; none if nothing is to be taken."""
        if not self._address:
            return []
        tls = ServerTls(authority, self._names, of_members=True)
        app = self.receiver.app()
        app.router.add_get(REPLICAS_PATH, self._tell)
        return [HttpPort(app, self._address, tls, repeats, _MOST_CONNECTIONS)]

    async def _tell(self, request: web.Request) -> web.Response:
        """Another control plane asks what is kept here."""
        if self._replicas is None:
            return status(404, "NotFound", "there are no other control planes")
        sender = sender_of(request.transport)
        return self._replicas.answer(sender, self.receiver.ring.texts())

    async def page(self, request: web.Request) -> web.Response:
        """The traces that the query asks for, and what of the spans was taken at all."""
        if not self._address:
            return status(404, "NotFound", "this control plane takes no spans")
        try:
            wanted = wanted_of(request.query)
        except ValueError:
            return status(400, "BadRequest", "last and slow_us are whole numbers")
        others = await self._replicas.kept() if self._replicas is not None else Kept()
        texts = [*self.receiver.ring.texts(), *others.texts]
        # All of them are read, and meanwhile more come.
        found = await asyncio.to_thread(find_traces, texts, wanted)
        return web.json_response(
            {
                "traces": found,
                "collector": self.receiver.report(),
                "warnings": [*_unasked(others.silent)],
            }
        )


def collector_of(
    settings: ControlPlaneSettings,
    authority: Callable[[], Authority],
    trust_domain: Callable[[], str],
) -> SpanCollector:
    """The collector of a control plane with these settings."""
    tls = CheckTls(authority, trust_domain, by_name=True)
    replicas = Replicas(settings.spans_port, tls.context)
    return SpanCollector(
        settings.spans, settings.server_names, settings.spans_to, replicas
    )


def _unasked(silent: Sequence[str]) -> Iterator[str]:
    if silent:
        yield (
            f"the control plane at {', '.join(silent)} does not tell its spans: traces may lack"
            " some, or be missing"
        )
