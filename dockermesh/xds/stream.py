"""The whole state of one stream, and in which order its types are sent. Pure, no I/O and no clock
of its own.

Order: secrets, clusters, endpoints, then listeners and routes once the clusters are accepted (Envoy
withholds that ACK while a cluster is warming), and clusters are removed only after the routes that
used them are replaced.

Invariant: a refusal, a stale nonce or an unknown type leaves every other type alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dockermesh.xds.request import Decoder, DiscoveryRequest
from dockermesh.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
)
from dockermesh.xds.responses import Names, Response, ResponseCache
from dockermesh.xds.snapshot import FIELDS, ResourceSet, Snapshot
from dockermesh.xds.subscription import (
    WILDCARD,
    DeltaSubscription,
    Nack,
    SotwSubscription,
    Subscription,
)
from dockermesh.xds.timings import Timings

GATE_SECONDS = 3.0
"""How long listeners and routes wait for clusters to be accepted; after that a stuck cluster holds
nothing up.
"""
# Before any answer a proxy asks about once for each of six types.
_MAX_WAITING = 64
_MAX_NAMES = 100_000


class TooMuch(Exception):
    """A client asks for more than a proxy could need."""


@dataclass(slots=True)
class Metrics:
    """What was sent and received, by type URL."""

    pushes: Counter[str] = field(default_factory=Counter)
    resources_sent: Counter[str] = field(default_factory=Counter)
    acks: Counter[str] = field(default_factory=Counter)
    nacks: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)
    stale_nonces: Counter[str] = field(default_factory=Counter)
    unknown_types: int = 0
    streams_opened: int = 0
    streams_refused: int = 0
    connections_ended: int = 0
    secrets_denied: int = 0
    publishes: int = 0
    internal_errors: int = 0
    timings: Timings = field(default_factory=Timings)


class StreamState:
    """What one proxy subscribed to, holds and refused."""

    __slots__ = (
        "_cache",
        "_decode",
        "_metrics",
        "_waiting",
        "delta",
        "denied",
        "nacks",
        "snapshot",
        "subscriptions",
    )

    def __init__(
        self, *, delta: bool, cache: ResponseCache, decode: Decoder, metrics: Metrics
    ) -> None:
        self.delta = delta
        self.snapshot: Snapshot | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.nacks: list[tuple[str, Nack]] = []
        self.denied: list[Names] = []
        self._cache = cache
        self._decode = decode
        self._metrics = metrics
        self._waiting: list[DiscoveryRequest] = []

    def publish(self, snapshot: Snapshot) -> None:
        """The proxy is to have this from now on."""
        self.snapshot = snapshot
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._handle(request, 0.0)

    def receive(self, raw: bytes, now: float) -> None:
        """Take a request in. Raises Malformed or TooMuch."""
        if not self._is_plain_ack(raw, now):
            self.handle(self._decode(raw, delta=self.delta), now)

    def handle(self, request: DiscoveryRequest, now: float) -> None:
        """Take a decoded request in; requests that come before the first snapshot are kept for
        it.
        """
        if len(request.names) > _MAX_NAMES:
            raise TooMuch(f"{len(request.names)} names in one request")
        if self.snapshot is not None:
            self._handle(request, now)
        elif len(self._waiting) < _MAX_WAITING:
            self._waiting.append(request)
        else:
            raise TooMuch("too many requests before there is anything to answer")

    def _is_plain_ack(self, raw: bytes, now: float) -> bool:
        """Whether this is an ACK that changes no subscription, told by its bytes alone."""
        for sub in self.subscriptions.values():
            expected = sub.outstanding
            if expected is None:
                continue

            # Such an ACK repeats every name: comparing is much cheaper than reading.
            if isinstance(sub, SotwSubscription):
                head, tail = expected.head, expected.tail
                plain = (
                    raw.endswith(tail)
                    and raw.startswith(head)
                    and raw[len(head) : -len(tail)] == sub.body
                )
            else:
                plain = raw == expected.head

            if plain:
                sub.settle(None, now)
                self._metrics.acks[sub.type_url] += 1
                return True

        return False

    def _handle(self, request: DiscoveryRequest, now: float) -> None:
        snapshot = self.snapshot
        # Left unanswered, as a refusal would end the stream for all other types.
        if snapshot is None or request.type_url not in FIELDS:
            self._metrics.unknown_types += 1
            return

        if request.type_url == SECRET:
            self._note_denied(request, snapshot.secrets)
        sub = self.subscriptions.get(request.type_url)
        if sub is None:
            self._begin(request, snapshot)
            return

        if request.nonce:
            if request.nonce == sub.nonce:
                self._settle(sub, request, now)
            else:
                self._metrics.stale_nonces[request.type_url] += 1
                if not self.delta:
                    # The client had not seen our last response; it will say its names again when it
                    # has.
                    return

        if isinstance(sub, DeltaSubscription | SotwSubscription):
            sub.change(request)

    def _note_denied(self, request: DiscoveryRequest, secrets: ResourceSet) -> None:
        # Other types are asked for before they exist; who asks for a secret it does not have means
        # somebody else's.
        missing = frozenset(
            name for name in request.names if name != WILDCARD and name not in secrets
        )
        if missing:
            self._metrics.secrets_denied += len(missing)
            self.denied.append(missing)

    def _begin(self, request: DiscoveryRequest, snapshot: Snapshot) -> None:
        kind = DeltaSubscription if self.delta else SotwSubscription
        sub = self.subscriptions[request.type_url] = kind(request.type_url, self._cache)
        sub.begin(request, snapshot.of(request.type_url))
        if sub.resumed:
            self._metrics.resumed[request.type_url] += 1

    def _settle(self, sub: Subscription, request: DiscoveryRequest, now: float) -> None:
        # The response was answered before; who repeats the answer says nothing new.
        if sub.outstanding is None:
            return
        nack = sub.settle(request.error, now)
        if nack is None:
            self._metrics.acks[sub.type_url] += 1
        else:
            self._metrics.nacks[sub.type_url] += 1
            self.nacks.append((sub.type_url, nack))

    def next(self, now: float) -> Response | None:
        """The next response to write, or None until something changes or is answered."""
        snapshot = self.snapshot
        if snapshot is None:
            return None
        keep = self._routes_pending(snapshot)
        response = self._pass(snapshot, now, keep=keep)
        if response is None and keep and not self._routes_pending(snapshot):
            # Nothing refers to the former clusters any more: now they may go.
            response = self._pass(snapshot, now, keep=False)
        return response

    def _pass(self, snapshot: Snapshot, now: float, *, keep: bool) -> Response | None:
        for type_url, field_name in FIELDS.items():
            sub = self.subscriptions.get(type_url)
            if sub is None or sub.outstanding is not None:
                continue
            target: ResourceSet = getattr(snapshot, field_name)
            if sub.is_clean(target):
                continue
            if type_url in (LISTENER, ROUTES) and self._is_gated(sub, now):
                continue

            if keep and type_url in (CLUSTER, ENDPOINTS):
                target = self._cache.retaining(sub.sent, target)
            if type_url == EXTENSION:
                target = self._with_held_extensions(sub, target)

            before = sub.sent
            response = sub.next(target, now)

            if response is not None:
                self._metrics.pushes[type_url] += 1
                self._metrics.resources_sent[type_url] += len(response.names)
                self._follow_up(type_url, before, target)
                return response

        return None

    def _with_held_extensions(
        self, sub: Subscription, target: ResourceSet
    ) -> ResourceSet:
        """A filter is never taken from a listener that has it: while one drains, the client stays
        subscribed, and its requests must find the filter.
        """
        removed = self._cache.diff(sub.sent, target).removed
        is_held = any(name in sub.names for name in removed)
        return self._cache.retaining(sub.sent, target) if is_held else target

    def _follow_up(
        self, type_url: str, before: ResourceSet, target: ResourceSet
    ) -> None:
        """Endpoints go again after the clusters that changed, even if they did not change."""
        endpoints = self.subscriptions.get(ENDPOINTS)
        if type_url == CLUSTER and endpoints is not None:
            names = self._cache.eds_of_changed(before, target)
            if names:
                endpoints.push_again(names)

    def _is_gated(self, sub: Subscription, now: float) -> bool:
        # The first answer is never held back: the client asked for it and has nothing to break.
        if not sub.acked_version:
            return False
        waited = (self.subscriptions.get(t) for t in (CLUSTER, ENDPOINTS))
        return any(
            s is not None
            and s.outstanding is not None
            and now - s.sent_at < GATE_SECONDS
            for s in waited
        )

    def _routes_pending(self, snapshot: Snapshot) -> bool:
        for type_url in (LISTENER, ROUTES):
            sub = self.subscriptions.get(type_url)
            if sub is not None and (
                sub.outstanding is not None or not sub.is_clean(snapshot.of(type_url))
            ):
                return True
        return False

    @property
    def awaits(self) -> bool:
        """Whether an answer of the client is outstanding."""
        return any(s.outstanding is not None for s in self.subscriptions.values())
