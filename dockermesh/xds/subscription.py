"""One type on one stream: what the client asked for, what it holds, and what it said about it.
Pure, no I/O.

What the client holds is described by the set last sent (shared by all proxies) and the names that
have to be sent whatever the diff says, so that streams in the same situation share the answer.

Invariant: at most one response is outstanding; once it is acknowledged and `next` gives None, the
client holds exactly the subscribed part of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockermesh.xds.request import DiscoveryRequest
from dockermesh.xds.resources import CLUSTER, LISTENER
from dockermesh.xds.responses import NO_NAMES, Names, Response, ResponseCache, union
from dockermesh.xds.snapshot import EMPTY, ResourceSet

# Types of which a first request without names asks for everything.
_LEGACY_WILDCARD = frozenset({CLUSTER, LISTENER})
WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Nack:
    """What a client said when it refused a response."""

    detail: str
    version: str
    at: float
    names: tuple[str, ...] = ()


class Subscription:
    """What both protocols have in common."""

    __slots__ = (
        "_cache",
        "_rejected",
        "_still_held",
        "acked_version",
        "answer",
        "force",
        "nack",
        "names",
        "nonce",
        "outstanding",
        "resumed",
        "sent",
        "sent_at",
        "sent_version",
        "type_url",
        "wildcard",
    )

    def __init__(self, type_url: str, cache: ResponseCache) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: Names = NO_NAMES
        self.sent: ResourceSet = EMPTY
        self.force: Names = NO_NAMES
        self.answer = False
        self.outstanding: Response | None = None
        self.nonce = ""
        self.sent_at = 0.0
        self.sent_version = self.acked_version = ""
        self.nack: Nack | None = None
        self.resumed = False
        self._rejected: Names = NO_NAMES
        self._still_held: Names = NO_NAMES
        self._cache = cache

    def is_clean(self, target: ResourceSet) -> bool:
        """Whether nothing is to be sent; may say no where `next` finds that nothing is."""
        same = self.sent is target or self.sent.version == target.version
        return same and not self.force and not self.answer

    def push_again(self, names: Names) -> None:
        """Send these with the next response even if they are equal."""
        self.force = union(self.force, names) if self.force else names

    def next(self, target: ResourceSet, now: float) -> Response | None:
        """The response to write now, which then is outstanding; None if there is none or one is
        outstanding.
        """
        if self.outstanding is not None or self.is_clean(target):
            return None
        if self._rejected:
            self._retry_rejected(target)
        response = self._plan(target)
        self.sent, self.force, self.answer = target, NO_NAMES, False

        if response is not None:
            self.outstanding, self.nonce, self.sent_at = response, response.nonce, now
            self.sent_version = response.version or target.version
        elif not self.nack:
            self.sent_version = self.acked_version = self._version(target)

        return response

    def _retry_rejected(self, target: ResourceSet) -> None:
        # Envoy may have applied nothing of a response that it refused for the sake of one resource:
        # as soon as any of them changes, all are sent again; until then none, or the refusal would
        # repeat for ever.
        diff = self._cache.diff(self.sent, target)
        if any(n in self._rejected for n in (*diff.changed, *diff.removed)):
            self.push_again(self._rejected)
        self._forget_rejected(target)

    def _forget_rejected(self, target: ResourceSet) -> None:
        # What is gone needs no second try, unless the client refused to let go of it.
        self._rejected = frozenset(
            n
            for n in self._rejected
            if (n in target or n in self._still_held)
            and (self.wildcard or n in self.names)
        )
        if not self._rejected:
            self.nack = None

    def settle(self, error: str | None, now: float) -> Nack | None:
        """The client answered the outstanding response."""
        response = self.outstanding
        self.outstanding = None
        if response is None:
            return None

        if error is None:
            self.acked_version = self.sent_version
            if self.nack is not None:
                self._still_held = self._still_held.difference(
                    response.names, response.removed
                )
                self._rejected = self._rejected.difference(
                    response.names, response.removed
                )
                self._forget_rejected(self.sent)

            return None

        self.nack = Nack(error, self.sent_version, now, response.names)
        self._rejected = self._rejected.union(response.names, response.removed)
        self._still_held = self._still_held.union(response.removed)

        return self.nack

    def _scope(self) -> Names | None:
        return None if self.wildcard else self.names

    def _version(self, target: ResourceSet) -> str:
        return target.version

    def _plan(self, target: ResourceSet) -> Response | None:
        raise NotImplementedError


class DeltaSubscription(Subscription):
    """Incremental xDS."""

    __slots__ = ()

    def _plan(self, target: ResourceSet) -> Response | None:
        planned = self._cache.delta(
            self.type_url, self.sent, target, self._scope(), self.force
        )
        if planned is None and self.answer:
            return self._cache.make_delta(self.type_url, (), ())
        return planned

    def begin(self, request: DiscoveryRequest, target: ResourceSet) -> None:
        """The first request for this type on this stream."""
        self.wildcard = WILDCARD in request.names or (
            not request.names and self.type_url in _LEGACY_WILDCARD
        )
        self.names = request.names - {WILDCARD} if self.wildcard else request.names

        if request.initial:
            self._resume(request.initial, target)
        elif self.wildcard:
            # Envoy waits for its first answer, so that there is nothing is said, too.
            self.sent, self.force, self.answer = EMPTY, self.names, not len(target)
        else:
            self.sent, self.force = target, self.names

    def _resume(self, held: Mapping[str, str], target: ResourceSet) -> None:
        """Go on from what the client holds of a former stream, by the versions that it says."""
        # Under the wildcard also what it holds and we no longer have: it must be told that it is
        # gone.
        asked = (*target, *held) if self.wildcard else self.names
        now = {n: r.version if (r := target.get(n)) else None for n in asked}
        # What the client does not hold and what does not exist is news to it as well: it waits for
        # an answer.
        self.force = frozenset(
            n for n, version in now.items() if version is None or held.get(n) != version
        )
        self.sent = target
        self.resumed = not self.force
        if self.resumed:
            self.sent_version = self.acked_version = target.version

    def change(self, request: DiscoveryRequest) -> None:
        """Subscribe and unsubscribe; both count even if the nonce is stale."""
        if request.unsubscribe:
            self._drop(request.unsubscribe)
        if request.names:
            self._add(request.names)

    def _drop(self, names: Names) -> None:
        if WILDCARD in names:
            self.wildcard = False
        gone = names - {WILDCARD}
        self.names -= gone
        # Under the wildcard the client still gets what it no longer names, and has let go of it.
        if self.wildcard and gone:
            self.push_again(gone)

    def _add(self, names: Names) -> None:
        if WILDCARD in names and not self.wildcard:
            self.wildcard, self.sent = True, EMPTY
        added = names - {WILDCARD} if WILDCARD in names else names
        if added:
            # What is asked for again has been let go of, though for us nothing changed.
            self.names = union(self.names, added) if self.names else added
            self.push_again(added)


class SotwSubscription(Subscription):
    """State of the world."""

    __slots__ = ("_legacy", "body")

    def __init__(self, type_url: str, cache: ResponseCache) -> None:
        super().__init__(type_url, cache)
        self.body = b""
        self._legacy = True

    def _version(self, target: ResourceSet) -> str:
        return self._cache.version(target, self._scope())

    def _plan(self, target: ResourceSet) -> Response | None:
        if self.answer:
            return self._cache.full_sotw(self.type_url, target, self._scope())
        return self._cache.sotw(
            self.type_url, self.sent, target, self._scope(), self.force
        )

    def begin(self, request: DiscoveryRequest, target: ResourceSet) -> None:
        """The first request for this type on this stream."""
        self._subscribe(request)
        # Only under the wildcard: of what is asked for by name the client may have let go since it
        # named this version, and it cannot say so.
        if (
            self.wildcard
            and request.version
            and request.version == self._version(target)
        ):
            self.sent, self.resumed = target, True
            self.sent_version = self.acked_version = request.version
        elif self.type_url in _LEGACY_WILDCARD:
            self.answer = True
        elif self.wildcard:
            self.sent = EMPTY
        else:
            self.sent, self.force = target, self.names

    def change(self, request: DiscoveryRequest) -> None:
        """The names that a request lists are the whole subscription."""
        if request.names == self.names and not self.wildcard:
            self.body = request.body
            return

        before, was_wildcard = self.names, self.wildcard
        # An empty list means everything only until names were asked for; after that it means
        # nothing.
        self._subscribe(request)
        if self.wildcard and not was_wildcard:
            self.answer = True
        added = self.names - before
        if added and not (self.wildcard and was_wildcard):
            self.push_again(added)

    def _subscribe(self, request: DiscoveryRequest) -> None:
        names = request.names
        self.body = request.body
        self._legacy = self._legacy and not names and self.type_url in _LEGACY_WILDCARD
        self.wildcard = self._legacy or WILDCARD in names
        self.names = names - {WILDCARD} if WILDCARD in names else names
