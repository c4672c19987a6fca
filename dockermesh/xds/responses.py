"""Responses assembled from cached bytes, once per change for all streams that need the same one.

A protobuf repeated field is a concatenation, so a response is its resources' bytes joined. The
nonce belongs to the response and not to the stream, so the whole response is one bytes object
shared by every stream.

Invariant: the same request for a response within one publish gives the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from dockermesh.xds.protobuf import frame
from dockermesh.xds.resources import CLUSTER, LISTENER, Resource
from dockermesh.xds.snapshot import DIGEST_MASK, Differ, ResourceSet

Names = frozenset[str]
NO_NAMES: Names = frozenset()
FULL_TYPES = frozenset({CLUSTER, LISTENER})
"""Types of which a state-of-the-world response must hold everything: what is left out is deleted.
"""
_CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """One message, ready to be written, and what its ACK will look like.

    `head` and `tail` begin and end the canonical ACK; in delta there is nothing between them.
    """

    type_url: str
    data: bytes = field(repr=False)
    nonce: str
    version: str
    head: bytes
    tail: bytes
    names: tuple[str, ...]
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class ResponseCache:
    """The responses of the current publish."""

    diff: Differ = field(default_factory=Differ)
    _plans: dict[object, Response | None] = field(default_factory=dict)
    _responses: dict[object, Response] = field(default_factory=dict)
    _derived: dict[object, ResourceSet | Names] = field(default_factory=dict)
    _versions: dict[object, str] = field(default_factory=dict)
    _bytes: int = 0
    _nonce: int = 0

    def clear(self) -> None:
        """Begin a new publish. Nonces go on, so that an old ACK is never taken for a new one."""
        self.diff.clear()
        self._plans.clear()
        self._responses.clear()
        self._derived.clear()
        self._versions.clear()
        self._bytes = 0

    def delta(
        self,
        type_url: str,
        sent: ResourceSet,
        target: ResourceSet,
        names: Names | None,
        force: Names,
    ) -> Response | None:
        """What brings a delta client from `sent` to `target`; None if nothing does.

        `names` is the subscription, None for the wildcard; names in `force` are sent even if equal.
        """
        key = (type_url, sent, target, names, force)
        try:
            return self._plans[key]
        except KeyError:
            plan = self._plans[key] = self._plan_delta(
                type_url, sent, target, names, force
            )
            return plan

    def _plan_delta(
        self,
        type_url: str,
        sent: ResourceSet,
        target: ResourceSet,
        names: Names | None,
        force: Names,
    ) -> Response | None:
        diff = self.diff(sent, target)
        resources, removed = [], []

        # Sorted, as a set has another order in each process.
        news = dict.fromkeys((*diff.changed, *sorted(force), *diff.removed))
        for name in _subscribed(news, names):
            found = target.get(name)
            if found is None:
                removed.append(name)
            else:
                resources.append(found)

        if not resources and not removed:
            return None
        return self.make_delta(type_url, tuple(resources), tuple(removed))

    def make_delta(
        self, type_url: str, resources: tuple[Resource, ...], removed: tuple[str, ...]
    ) -> Response:
        """The delta response with exactly this content."""
        # In the response 4 is the type, 5 the nonce, 6 a name that is gone; in its ACK 2 is the
        # type, 6 the nonce.
        url = type_url.encode()

        def build(nonce: bytes) -> Response:
            pieces: list[bytes] = []
            for r in resources:
                pieces += (r.delta_head, r.any_bytes, r.delta_tail)
            pieces += (
                frame(4, url),
                frame(5, nonce),
                *(frame(6, n.encode()) for n in removed),
            )
            names = tuple(r.name for r in resources)

            return Response(
                type_url,
                b"".join(pieces),
                nonce.decode(),
                "",
                frame(2, url) + frame(6, nonce),
                b"",
                names,
                removed,
            )

        return self._shared(("delta", type_url, resources, removed), build)

    def sotw(
        self,
        type_url: str,
        sent: ResourceSet,
        target: ResourceSet,
        names: Names | None,
        force: Names,
    ) -> Response | None:
        """What brings a state-of-the-world client from `sent` to `target`; None if nothing does."""
        key = ("sotw", type_url, sent, target, names, force)
        try:
            return self._plans[key]
        except KeyError:
            plan = self._plans[key] = self._plan_sotw(
                type_url, sent, target, names, force
            )
            return plan

    def _plan_sotw(
        self,
        type_url: str,
        sent: ResourceSet,
        target: ResourceSet,
        names: Names | None,
        force: Names,
    ) -> Response | None:
        diff = self.diff(sent, target)
        seen = _subscribed(dict.fromkeys((*diff.changed, *sorted(force))), names)

        # Of other types a partial answer is legal: what it leaves out stays as it is.
        if type_url in FULL_TYPES:
            if not seen and not _subscribed(diff.removed, names):
                return None
            return self.full_sotw(type_url, target, names)

        resources = tuple(r for n in seen if (r := target.get(n)) is not None)
        if not resources:
            return None
        return self.make_sotw(type_url, resources, self.version(target, names))

    def full_sotw(
        self, type_url: str, target: ResourceSet, names: Names | None
    ) -> Response:
        """The whole set, as far as it is subscribed."""
        # Names are a set, in another order in every process; replicas answer alike.
        chosen = (
            target.values()
            if names is None
            else (r for n in sorted(names) if (r := target.get(n)) is not None)
        )
        return self.make_sotw(type_url, tuple(chosen), self.version(target, names))

    def make_sotw(
        self, type_url: str, resources: tuple[Resource, ...], version: str
    ) -> Response:
        """The state-of-the-world response with exactly this content."""

        def build(nonce: bytes) -> Response:
            # Version and nonce have the same numbers in the response as in its ACK.
            head, tail = frame(1, version.encode()), frame(5, nonce)
            pieces = [head]
            for r in resources:
                pieces += (r.sotw_head, r.any_bytes)
            pieces += (frame(4, type_url.encode()), tail)
            return Response(
                type_url,
                b"".join(pieces),
                nonce.decode(),
                version,
                head,
                tail,
                tuple(r.name for r in resources),
            )

        return self._shared(("sotw", type_url, resources, version), build)

    def _shared(self, key: object, build: Callable[[bytes], Response]) -> Response:
        found = self._responses.get(key)
        if found is None:
            if self._bytes > _CACHE_BYTES:
                # Making a response twice costs less than memory for all that differ.
                self.clear()
            self._nonce += 1
            found = self._responses[key] = build(b"%d" % self._nonce)
            self._bytes += len(found.data)
        return found

    def version(self, target: ResourceSet, names: Names | None) -> str:
        """The version of a set as far as it is subscribed.

        It covers exactly what the client holds, so a reconnecting client that says this version
        lacks nothing.
        """
        if names is None:
            return target.version
        key = ("version", target, names)
        found = self._versions.get(key)
        if found is None:
            total = sum(r.digest for n in names if (r := target.get(n)) is not None)
            found = self._versions[key] = f"{total & DIGEST_MASK:024x}"

        return found

    def retaining(self, sent: ResourceSet, target: ResourceSet) -> ResourceSet:
        """`target` and what it would remove from `sent`: removals wait until nothing refers to
        them.
        """
        removed = self.diff(sent, target).removed
        if not removed:
            return target

        key = ("retain", sent, target)
        found = self._derived.get(key)
        if not isinstance(found, ResourceSet):
            kept = (r for n in removed if (r := sent.get(n)) is not None)
            found = self._derived[key] = ResourceSet(kept, base=target)

        return found

    def eds_of_changed(self, sent: ResourceSet, target: ResourceSet) -> Names:
        """EDS names of the clusters that differ: Envoy keeps a changed cluster warming until its
        endpoints come.
        """
        key = ("eds", sent, target)
        found = self._derived.get(key)

        if not isinstance(found, frozenset):
            changed = (target.get(n) for n in self.diff(sent, target).changed)
            found = self._derived[key] = frozenset(
                r.eds_name for r in changed if r is not None and r.eds_name
            )

        return found


def _subscribed(found: Iterable[str], names: Names | None) -> list[str]:
    """Those of the names that the client subscribed to; all of them under the wildcard."""
    return list(found) if names is None else [name for name in found if name in names]


@lru_cache(maxsize=64)
def union(a: Names, b: Names) -> Names:
    """Both, as one object for all streams that subscribe alike."""
    return a | b
