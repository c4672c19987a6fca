"""The newest spans, in bounded memory.

Invariants: never more than so many spans and so many bytes; and no sender has more than a quarter
of either, so that one that floods pushes out what is its own, and the others' stays.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from dockermesh.controlplane.spans.zipkin import Span

MOST_SPANS = 20_000
MOST_BYTES = 16 << 20
_SHARE = 4
_BATCH = 64
_OVERHEAD = 256
"""Bytes that a span costs besides its text."""


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    text: bytes

    @property
    def size(self) -> int:
        return len(self.text) + _OVERHEAD


class _Sender:
    __slots__ = ("kept", "size")

    def __init__(self) -> None:
        self.kept: deque[_Kept] = deque()
        self.size = 0

    def add(self, span: _Kept) -> None:
        self.kept.append(span)
        self.size += span.size

    def drop(self) -> _Kept:
        oldest = self.kept.popleft()
        self.size -= oldest.size
        return oldest


class SpanRing:
    """Spans by their sender, each's in the order in which they came."""

    def __init__(
        self, most_spans: int = MOST_SPANS, most_bytes: int = MOST_BYTES
    ) -> None:
        self.most_spans, self.most_bytes = most_spans, most_bytes
        self.spans = self.size = self.dropped = 0
        self._senders: dict[str, _Sender] = {}
        self._numbers = count()

    def add(self, sender: str, span: Span) -> None:
        """Keep a span of the sender; older ones make room for it."""
        own = self._senders.setdefault(sender, _Sender())
        text = json.dumps(span, separators=(",", ":"), ensure_ascii=False).encode()
        kept = _Kept(next(self._numbers), text)
        own.add(kept)
        self.spans, self.size = self.spans + 1, self.size + kept.size

        while (
            len(own.kept) * _SHARE > self.most_spans
            or own.size * _SHARE > self.most_bytes
        ):
            self._drop(own)
        if self.spans > self.most_spans or self.size > self.most_bytes:
            self._make_room()

    def texts(self) -> list[bytes]:
        """All that are kept, as JSON, in no order."""
        return [*self._texts()]

    def _texts(self) -> Iterator[bytes]:
        for sender in self._senders.values():
            yield from (span.text for span in sender.kept)

    def _make_room(self) -> None:
        # A part at once: looking for the oldest of a thousand senders is not for each span.
        spans = self.most_spans - self.most_spans // _BATCH
        size = self.most_bytes - self.most_bytes // _BATCH
        oldest = [(s.kept[0].number, name) for name, s in self._senders.items()]
        heapq.heapify(oldest)
        while self.spans > spans or self.size > size:
            name = oldest[0][1]
            sender = self._senders[name]
            self._drop(sender)
            if sender.kept:
                heapq.heapreplace(oldest, (sender.kept[0].number, name))
            else:
                heapq.heappop(oldest)
                del self._senders[name]

    def _drop(self, sender: _Sender) -> None:
        gone = sender.drop()
        self.spans, self.size = self.spans - 1, self.size - gone.size
        self.dropped += 1
