"""The ADS server: grpc.aio streams around `StreamState`.

Requests and responses cross gRPC as raw bytes. Nothing is sent before `authorize` has returned. A
publish never waits: each stream has at most one writer, which asks for the newest state when it can
write again.

Invariant: one stream per proxy key, the newest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, KeysView, Mapping
from dataclasses import dataclass, replace

import grpc
import grpc.aio
import structlog

from dockermesh.runtime.repeats import Repeats
from dockermesh.xds.connections import Bounds, Connections
from dockermesh.xds.options import OPTIONS
from dockermesh.xds.request import Decoder, DiscoveryRequest, Malformed
from dockermesh.xds.responses import Response, ResponseCache
from dockermesh.xds.snapshot import FIELDS, Snapshot
from dockermesh.xds.status import (
    ConnectedProxy,
    NodeInfo,
    ProxyStatus,
    SyncState,
    TypeStatus,
)
from dockermesh.xds.stream import GATE_SECONDS, Metrics, StreamState, TooMuch
from dockermesh.xds.subscription import Nack
from dockermesh.xds.timings import Changes, Progress
from dockermesh.xds.turns import Turns

log = structlog.get_logger(__name__)

Authorize = Callable[[Mapping[str, str], NodeInfo, str], Awaitable[str]]
"""(gRPC metadata, node, peer) to the proxy's key; raises Refused."""
Lookup = Callable[[ConnectedProxy], Snapshot | None]
"""What a proxy is to have; None: nothing is known yet, so stay silent. Called for every stream at
every publish.
"""
OnNack = Callable[[ConnectedProxy, str, Nack], None]
Refusal = tuple[str, str, Nack]
"""The proxy's key, the type, and what it said."""

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_FIRST_REQUEST_SECONDS = 15.0
_LONGEST_NAME, _MOST_NAMES = 200, 10
"""How much of what a proxy asked for is written to the log."""


class Refused(Exception):
    """`authorize` does not let this proxy in."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Sync:
    """How many proxies have what was last published, wait for it, or refused part of it."""

    connected: int
    pending: int
    nacked: int

    @property
    def is_complete(self) -> bool:
        """Whether every connected proxy accepted everything."""
        return not self.pending and not self.nacked


class _Stream:
    """One gRPC stream."""

    __slots__ = (
        "_context",
        "_gate",
        "_server",
        "_task",
        "accepted",
        "closed",
        "progress",
        "proxy",
        "state",
        "told",
    )

    def __init__(
        self,
        server: AdsServer,
        context: grpc.aio.ServicerContext,
        proxy: ConnectedProxy,
        state: StreamState,
    ) -> None:
        self._server = server
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._gate: asyncio.TimerHandle | None = None
        self.proxy = proxy
        self.state = state
        # What it is told of, and what it took as a whole last: marks of publishes.
        self.told: object = None
        self.accepted: object = None
        self.progress = Progress(server.metrics.timings)
        self.closed: asyncio.Future[tuple[grpc.StatusCode, str]] = (
            asyncio.get_running_loop().create_future()
        )

    def close(self, code: grpc.StatusCode, message: str) -> None:
        """End the stream from our side."""
        if not self.closed.done():
            self.closed.set_result((code, message))

    def kick(self) -> None:
        """Write what there is to write, unless a writer is at it already."""
        if self._task is not None or self.closed.done():
            return
        response = self._next(time.monotonic())

        if response is None:
            self._rest()
        else:
            self._task = asyncio.create_task(self._write(response))

    def _next(self, now: float) -> Response | None:
        self.progress.plan(now)
        return self.state.next(now)

    def _rest(self) -> None:
        """There is nothing to write at the moment."""
        self._server.settled(self)
        if self.state.awaits and self._gate is None and not self.closed.done():
            # What waits for an answer waits for so long at most: no other event need come.
            self._gate = asyncio.get_running_loop().call_later(
                # A little later, so that the gate is open by then.
                GATE_SECONDS + 0.05,
                self._open_gate,
            )

    def _open_gate(self) -> None:
        self._gate = None
        self.kick()

    async def _write(self, response: Response | None) -> None:
        try:
            while response is not None:
                size = len(response.data)
                async with self._server.turns.turn(size):
                    start = time.monotonic()
                    await self._context.write(response.data)
                end = time.monotonic()
                self.progress.wrote(response.type_url, size, start, end)
                response = self._next(end)
        except (
            grpc.RpcError,
            grpc.aio.BaseError,
            asyncio.InvalidStateError,
            RuntimeError,
        ) as e:
            self.close(grpc.StatusCode.UNAVAILABLE, f"cannot write: {e}")
        finally:
            self._task = None
        self._rest()

    async def read(self) -> None:
        """Take requests in until the client ends the stream."""
        context, state = self._context, self.state
        while (raw := await context.read()) is not grpc.aio.EOF:
            state.receive(raw, time.monotonic())
            if state.nacks:
                self._server.refused_by(self)
            if state.denied:
                self._server.denied_to(self)
            self.kick()

    def cancel(self) -> None:
        """Stop the writer and the timer."""
        if self._task is not None:
            self._task.cancel()
        if self._gate is not None:
            self._gate.cancel()


class AdsServer:
    """Serves snapshots to proxies over incremental and state-of-the-world ADS. Belongs to one event
    loop.
    """

    def __init__(
        self,
        *,
        authorize: Authorize,
        on_nack: OnNack | None = None,
        repeats: Repeats | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """`bounds` are those of connections without a stream."""
        self.metrics = Metrics()
        self._repeats = repeats or Repeats()
        self._authorize = authorize
        self._on_nack = on_nack
        self._lookup: Lookup = lambda _proxy: None
        self._cache = ResponseCache()
        self._decode = Decoder()
        self.turns = Turns()
        self._streams: dict[str, _Stream] = {}
        self._pending: set[_Stream] = set()
        self._nacked: set[_Stream] = set()
        self._refusals: tuple[Refusal, ...] | None = ()
        self._mark: object = None
        self._connections = Connections(self._peers, self._ended, bounds)
        self._watching: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((_Handlers(self),))

    def add_port(
        self, address: str, credentials: grpc.ServerCredentials | None = None
    ) -> int:
        """Listen on `host:port`, with TLS if there are credentials; the port that was bound."""
        port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._connections.ports.add(int(port))
        return int(port)

    async def start(self) -> None:
        """Accept streams."""
        await self._server.start()
        self._watching = asyncio.create_task(
            self._connections.run(), name="xDS connections"
        )

    def _peers(self) -> list[str]:
        return [stream.proxy.peer for stream in self._streams.values()]

    def _ended(self, address: str) -> None:
        self.metrics.connections_ended += 1
        self._repeats.note(
            "a client has too many xDS connections; its oldest is ended",
            address,
            "connections without a stream",
        )

    async def stop(self, grace: float = 5.0) -> None:
        """Say goodbye (GOAWAY), end all streams, and return within `grace` seconds; it cannot be
        started again.
        """
        if self._server is None:
            return
        # gRPC's polling thread ends with its last server object, and has to before the interpreter
        # does: who keeps us for longer (aiohttp caches handlers for ever) must not keep it.
        server, self._server = self._server, None
        if self._watching is not None:
            self._watching.cancel()
        stopping = asyncio.ensure_future(server.stop(grace))
        # Lets the GOAWAY go first.
        await asyncio.sleep(0)
        for stream in tuple(self._streams.values()):
            stream.close(grpc.StatusCode.UNAVAILABLE, "the control plane is stopping")
        await stopping

    def publish(
        self, lookup: Lookup, mark: object = None, changes: Changes | None = None
    ) -> None:
        """From now on every proxy is to have what `lookup` says; where it is the same object,
        nothing is done. `mark` is what it was made of, for `accepted`; `changes` are what led to
        it.
        """
        self._lookup = lookup
        self._mark = mark
        now = time.monotonic()
        since = min(changes.values()) if changes else now
        self._cache.clear()
        self.metrics.publishes += 1
        for stream in tuple(self._streams.values()):
            self._refresh(stream, since, now)
        # A change that is nobody's has not to be taken by anybody.
        if self._pending and changes:
            self.metrics.timings.begin(changes)

    def publish_to(self, keys: Iterable[str]) -> None:
        """Look these proxies up again: something changed that is theirs alone."""
        self._cache.clear()
        now = time.monotonic()
        for stream in [self._streams[key] for key in keys if key in self._streams]:
            self._refresh(stream, now, now)

    def _refresh(self, stream: _Stream, changed: float, now: float) -> None:
        """Look it up; `changed` is when the cause was known."""
        try:
            snapshot = self._lookup(stream.proxy)
        except Exception:
            # A fault of ours costs this proxy what is new, and nobody else.
            log.exception("a proxy's part cannot be made", proxy=stream.proxy.key)
            self.metrics.internal_errors += 1
            self._pending.add(stream)
            if stream.state.snapshot is None:
                # It has nothing to go on with, so it is to ask again.
                stream.close(grpc.StatusCode.UNAVAILABLE, "internal error")
            return
        stream.told = self._mark
        if snapshot is not None and snapshot is not stream.state.snapshot:
            stream.progress.tell(changed, now)
            stream.state.publish(snapshot)
            if stream.state.denied:
                self.denied_to(stream)
            self._pending.add(stream)
            stream.kick()
        elif stream not in self._pending and stream not in self._nacked:
            stream.accepted = stream.told

    @property
    def connected(self) -> KeysView[str]:
        """The keys of all connected proxies; a view that follows."""
        return self._streams.keys()

    def sync(self) -> Sync:
        """How far all proxies are with the last publish; costs nothing."""
        return Sync(len(self._streams), len(self._pending), len(self._nacked))

    def proxies(self) -> list[ProxyStatus]:
        """Every connected proxy and how far it is, by key."""
        return [_status(self._streams[key]) for key in sorted(self._streams)]

    def accepted(self, key: str) -> object:
        """The mark of what this proxy took last as a whole; None if it never did."""
        stream = self._streams.get(key)
        return stream.accepted if stream is not None else None

    def refusals(self) -> tuple[Refusal, ...]:
        """What proxies refuse at the moment; the same object until that changes."""
        if self._refusals is None:
            self._refusals = tuple(
                (stream.proxy.key, type_url, sub.nack)
                for stream in sorted(self._nacked, key=lambda s: s.proxy.key)
                for type_url, sub in stream.state.subscriptions.items()
                if sub.nack is not None
            )
        return self._refusals

    def disconnect(self, key: str, message: str) -> None:
        """End a proxy's stream, because it lost its right to it."""
        stream = self._streams.get(key)
        if stream is not None:
            stream.close(grpc.StatusCode.PERMISSION_DENIED, message)

    def settled(self, stream: _Stream) -> None:
        """A stream has nothing to write at the moment."""
        if stream.closed.done():
            return  # a late writer must not bring back what was forgotten
        if stream.state.snapshot is not None and not stream.state.awaits:
            self._pending.discard(stream)
        else:
            self._pending.add(stream)

        if any(s.nack is not None for s in stream.state.subscriptions.values()):
            self._nacked.add(stream)
            self._refusals = None
        elif stream in self._nacked:
            self._nacked.discard(stream)
            self._refusals = None

        if stream not in self._pending:
            stream.progress.settled()
            if not self._pending:
                self._all_took()
            if stream not in self._nacked:
                stream.accepted = stream.told

    def _all_took(self) -> None:
        """No proxy has anything to take any more."""
        timings = self.metrics.timings
        if timings.waits_since is not None:
            timings.all_taken(time.monotonic())

    def refused_by(self, stream: _Stream) -> None:
        """A proxy refused something."""
        for type_url, nack in stream.state.nacks:
            log.warning(
                "refused by proxy",
                proxy=stream.proxy.key,
                type=_short(type_url),
                detail=nack.detail[:2000],
            )
            if self._on_nack is not None:
                self._on_nack(stream.proxy, type_url, nack)

        stream.state.nacks.clear()

    def denied_to(self, stream: _Stream) -> None:
        """A proxy asked for secrets that are not for it."""
        names = sorted(frozenset().union(*stream.state.denied))
        stream.state.denied.clear()
        # Names are the client's own words, and could forge lines of the log.
        shown = [ascii(name[:_LONGEST_NAME]) for name in names[:_MOST_NAMES]]
        log.warning(
            "secrets denied",
            proxy=stream.proxy.key,
            peer=stream.proxy.peer,
            count=len(names),
            names=shown,
        )

    async def serve(self, context: grpc.aio.ServicerContext, *, delta: bool) -> None:
        """One stream, from its first request to its end."""
        try:
            stream = await self._open(context, delta=delta)
        except Refused as e:
            self.metrics.streams_refused += 1
            # By address, without the port: who is refused can come again as often as it likes.
            self._repeats.note(
                "proxy refused",
                context.peer().rpartition(":")[0],
                f"{e.code.name}: {e.message}",
            )
            await context.abort(e.code, e.message)
            return

        if stream is not None:
            code, message = await self._run(stream)
            if code is not grpc.StatusCode.OK:
                await context.abort(code, message)

    async def _open(
        self, context: grpc.aio.ServicerContext, *, delta: bool
    ) -> _Stream | None:
        try:
            raw = await asyncio.wait_for(context.read(), _FIRST_REQUEST_SECONDS)
            if raw is grpc.aio.EOF:
                return None
            request = self._decode(raw, delta=delta)
            node = _node_of(request)
        except TimeoutError:
            raise Refused(
                grpc.StatusCode.DEADLINE_EXCEEDED, "no request came"
            ) from None
        except Malformed as e:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(e)) from e

        metadata = {
            k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)
        }
        key = await self._authorize(metadata, node, context.peer())
        proxy = ConnectedProxy(key, node, context.peer(), delta, time.time())
        state = StreamState(
            delta=delta, cache=self._cache, decode=self._decode, metrics=self.metrics
        )
        stream = _Stream(self, context, proxy, state)
        # One stream per proxy: with two, the older could send what the newer has replaced.
        before = self._streams.get(key)
        # Its connection may be dead without our knowing yet.
        if before is not None:
            before.close(
                grpc.StatusCode.ABORTED, "replaced by a newer stream of the same proxy"
            )
        self._streams[key] = stream
        self._pending.add(stream)
        self.metrics.streams_opened += 1

        try:
            state.handle(replace(request, node=None), time.monotonic())
        except TooMuch as e:
            stream.close(grpc.StatusCode.RESOURCE_EXHAUSTED, str(e))

        log.info("proxy connected", proxy=key, node=node.id, delta=delta)
        return stream

    async def _run(self, stream: _Stream) -> tuple[grpc.StatusCode, str]:
        now = time.monotonic()
        self._refresh(stream, now, now)
        reader = asyncio.ensure_future(stream.read())
        try:
            await asyncio.wait(
                (reader, stream.closed), return_when=asyncio.FIRST_COMPLETED
            )
            if stream.closed.done():
                return stream.closed.result()
            return _outcome(reader)
        finally:
            reader.cancel()
            self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        stream.close(grpc.StatusCode.OK, "")
        stream.cancel()
        self._pending.discard(stream)
        self._nacked.discard(stream)
        if not self._pending:
            self._all_took()
        self._refusals = None
        if self._streams.get(stream.proxy.key) is stream:
            del self._streams[stream.proxy.key]
        resumed = [
            _short(t) for t, s in stream.state.subscriptions.items() if s.resumed
        ]
        log.info("proxy disconnected", proxy=stream.proxy.key, resumed=resumed)


def _node_of(request: DiscoveryRequest) -> NodeInfo:
    """Who sends the first request of a stream. Raises Malformed where it does not say."""
    node = NodeInfo.parse(request.node or b"")
    # Without a name all such proxies would be one, and each new stream end that of another.
    if not node.id:
        raise Malformed("the first request of a stream must name its node")
    return node


def _outcome(reader: asyncio.Future[None]) -> tuple[grpc.StatusCode, str]:
    error = reader.exception() if not reader.cancelled() else None
    if isinstance(error, Malformed):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, TooMuch):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)

    if error is not None and not isinstance(
        error, grpc.RpcError | grpc.aio.UsageError | asyncio.CancelledError
    ):
        log.error("stream failed", exc_info=error)
        return grpc.StatusCode.INTERNAL, "internal error"

    return grpc.StatusCode.OK, ""


def _short(type_url: str) -> str:
    return FIELDS.get(type_url, type_url)


def _status(stream: _Stream) -> ProxyStatus:
    snapshot = stream.state.snapshot
    types = []

    for type_url in FIELDS:
        sub = stream.state.subscriptions.get(type_url)
        if sub is None:
            continue

        if sub.nack is not None:
            state = SyncState.NACKED
        elif not sub.sent_version:
            state = SyncState.NOT_SENT
        elif (
            sub.outstanding is None
            and snapshot is not None
            and sub.is_clean(snapshot.of(type_url))
        ):
            state = SyncState.SYNCED
        else:
            state = SyncState.STALE

        error, at = (sub.nack.detail, sub.nack.at) if sub.nack else ("", 0.0)
        types.append(
            TypeStatus(
                type_url,
                state,
                sub.sent_version,
                sub.nonce,
                sub.acked_version,
                error,
                at,
            )
        )

    return ProxyStatus(stream.proxy, tuple(types))


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """The two methods of ADS, without (de)serialisers."""

    def __init__(self, server: AdsServer) -> None:
        async def delta(_requests: object, context: grpc.aio.ServicerContext) -> None:
            await server.serve(context, delta=True)

        async def sotw(_requests: object, context: grpc.aio.ServicerContext) -> None:
            await server.serve(context, delta=False)

        self._methods = {
            f"/{SERVICE}/DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                delta
            ),
            f"/{SERVICE}/StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                sotw
            ),
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """The handler of a method."""
        return self._methods.get(handler_call_details.method)
