"""A steady load on the gateway: every request on a connection of its own, sent on time however slow the answers are.

Invariant: a request counts as failed unless the page came whole: status 200 with details and reviews in it.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

RATE = 50
PATIENCE_S = 30
_SENTENCE = re.compile(r"[^<>]*currently unavailable[^<>]*")
_VERSION = re.compile(r"reviews-(v\d)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it began and ended (monotonic seconds), who wrote the reviews, what went wrong."""

    began: float
    ended: float
    version: str = ""
    error: str = ""

    def __str__(self) -> str:
        return f"{self.error} after {self.ended - self.began:.2f} s"


@dataclass
class Load:
    """Used as a context manager: the load runs inside, and all answers are in when it is left."""

    port: int = 30080
    path: str = "/productpage"
    rate: int = RATE
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(PATIENCE_S * self.rate)
        self._clock = threading.Thread(target=self._send)
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._clock.join()
        self._pool.shutdown(wait=True)

    def _send(self) -> None:
        began = time.monotonic()
        number = 0
        while not self._stop.wait(max(0.0, began + number / self.rate - time.monotonic())):
            self._pool.submit(self._request)
            number += 1

    def _request(self) -> None:
        began = time.monotonic()
        version = error = ""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", self.path)
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace")
            error = _flaw(answer.status, body)
            found = _VERSION.search(body)
            version = found[1] if found else ""
        except (OSError, http.client.HTTPException) as failure:
            error = repr(failure)
        finally:
            connection.close()
        self.samples.append(Sample(began, time.monotonic(), version, error))

    def since(self, moment: float, version: str = "") -> list[Sample]:
        """Finished requests that began after a moment, of one version of reviews if it is named."""
        return [s for s in list(self.samples) if s.began >= moment and version in {"", s.version}]

    def failures(self, in_hand: Iterable[tuple[float, float]] = ()) -> list[Sample]:
        """Failed requests, except those that were under way while something was being killed."""
        spans = list(in_hand)
        return [s for s in self.samples if s.error and not any(s.began <= b and s.ended >= a for a, b in spans)]

    def report(self) -> str:
        """What happened, for a failed assertion."""
        failed = [s for s in self.samples if s.error]
        first = min((s.began for s in self.samples), default=0.0)
        lines = [f"  at {s.began - first:.2f} s: {s}" for s in failed[:10]]
        slowest = max((s.ended - s.began for s in self.samples), default=0.0)
        by_version = dict(Counter(s.version for s in self.samples))
        head = f"{len(self.samples)} requests, {len(failed)} failed, slowest {slowest:.2f} s, {by_version}"
        return "\n".join([head, *lines])


def _flaw(status: int, body: str) -> str:
    if status != 200:
        return f"status {status}: {body[:100]}"
    missing = [text.strip() for text in _SENTENCE.findall(body)]
    return f"the page says: {'; '.join(missing)}" if missing else ""
