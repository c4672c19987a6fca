"""What a question is about: the buckets that its descriptors lead to.

A plan is kept by the very bytes of the question, so what is asked again and again is read once. How
many are kept, and how long they may be, is bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2
from envoy.type.v3 import ratelimit_unit_pb2
from google.protobuf.message import DecodeError

from dockermesh.limiter.bucket import Bucket, bucket_of
from dockermesh.model.rate_limits import (
    CountedLimit,
    LimitDomains,
    LimitNode,
    Per,
    Rate,
)

_LONGEST_VALUES = 128
_LONGEST_KEPT = 1024
_MOST_KEPT = 20_000
_UNITS = {
    ratelimit_unit_pb2.RateLimitUnit.Value(per.name): per
    for per in Per
    if per is not Per.WEEK  # which questions do not know
}


class UnreadableError(ValueError):
    """A question that is none."""


@dataclass(frozen=True, slots=True)
class Share:
    """A bucket that a question asks for: whose it is (a limit has one for each value), and how many
    units of it.
    """

    limit: CountedLimit
    bucket: Bucket
    # Of all buckets of a limit, and of one of them.
    table: str
    key: bytes
    hits: int


Plan = tuple[Share | None, ...]
"""For each descriptor of a question, in their order, what it asks for; None: nothing is counted."""


class Planner:
    """Reads questions under the limits at hand."""

    def __init__(self) -> None:
        self._domains: LimitDomains = {}
        self._kept: dict[tuple[str, bytes], Plan] = {}
        self._buckets: dict[Rate, Bucket] = {}

    def take(self, domains: LimitDomains) -> None:
        """New limits."""
        self._domains = domains
        self._kept.clear()
        self._buckets.clear()

    def plan(self, asked: str, message: bytes) -> Plan:
        """What a question to the one of this name is about. Raises UnreadableError."""
        found = self._kept.get((asked, message))
        if found is None:
            found = self._read(asked, message)
            if len(message) <= _LONGEST_KEPT:
                if len(self._kept) >= _MOST_KEPT:
                    self._kept.clear()
                self._kept[asked, message] = found
        return found

    def _read(self, asked: str, message: bytes) -> Plan:
        try:
            question = rls_pb2.RateLimitRequest.FromString(message)
        except DecodeError as error:
            raise UnreadableError("this is no RateLimitRequest") from error
        if not question.domain:
            raise UnreadableError("the domain must not be empty")
        if not question.descriptors:
            raise UnreadableError("there are no descriptors")

        tree = self._domains.get((asked, question.domain))
        hits = question.hits_addend or 1
        found = [
            self._share(tree, question.domain, descriptor, hits, asked)
            for descriptor in question.descriptors
        ]
        replaced = {n for s in found if s is not None for n in s.limit.replaces}
        return tuple(
            None if s is not None and s.limit.name in replaced else s for s in found
        )

    def _share(
        self,
        tree: LimitNode | None,
        domain: str,
        descriptor: Any,
        hits: int,
        asked: str,
    ) -> Share | None:
        entries = [(e.key, e.value) for e in descriptor.entries]
        limit = _overriding(descriptor, domain) or _limit_of(tree, entries)
        if limit is None or limit.rate is None:
            return None
        bucket = self._buckets.get(limit.rate)
        if bucket is None:
            bucket = self._buckets[limit.rate] = bucket_of(limit.rate)
        if descriptor.HasField("hits_addend"):
            hits = descriptor.hits_addend.value
        # The keys of what the question brings itself are as many as it likes.
        is_written = not descriptor.HasField("limit")
        keys = "|".join(key for key, _ in entries) if is_written else ""
        # What was counted in another unit says nothing in this one.
        table = f"{asked}|{domain}|{limit.name}|{keys}|{limit.rate.per}"
        return Share(limit, bucket, table, _key(limit, entries), hits)


def _limit_of(
    tree: LimitNode | None, entries: Iterable[tuple[str, str]]
) -> CountedLimit | None:
    node = tree
    for key, value in entries:
        if node is None:
            return None
        node = node.follow(key, value)
    return node.limit if node is not None else None


def _overriding(descriptor: Any, domain: str) -> CountedLimit | None:
    """The limit that the question itself brings."""
    if not descriptor.HasField("limit"):
        return None
    amount = descriptor.limit.requests_per_unit
    per = _UNITS.get(descriptor.limit.unit)
    if per is None or not amount:
        raise UnreadableError("the limit of a descriptor has no unit or no requests")
    return CountedLimit(f"{domain}.override", Rate(amount, per, amount))


def _key(limit: CountedLimit, entries: Iterable[tuple[str, str]]) -> bytes:
    """Short whatever the values are: a client makes up as long ones as it likes."""
    if limit.shared:
        return b""
    joined = "\0".join(part for entry in entries for part in entry).encode()
    if len(joined) <= _LONGEST_VALUES:
        return joined
    return hashlib.blake2b(joined, digest_size=16).digest()
