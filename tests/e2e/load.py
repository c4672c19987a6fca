"""A load on the mesh: two browsers at the gateway and three callers inside, each with one request
in flight.

Those inside ask services directly, through the proxy of the app in whose container they run, and
have all the patience in the world: a service that cannot be had fails them. The page also fails
when it comes without its parts, unless an app itself lost patience: they give up after 2.5 or 3 s,
which on a busy machine proves nothing. Invariant: a request counts as failed unless its answer came
whole; nothing in flight is left uncounted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mesh_rig import get
from patience import SLACK, until

PAGE = "http://127.0.0.1:30080/productpage"
INSIDE = "bookinfo-productpage-v1-1"
SERVICES = (
    "http://reviews:9080/reviews/0",
    "http://reviews:9080/reviews/0",
    "http://details:9080/details/0",
)
PACE_S = 0.1
GIVES_UP_S = 2.5
"""How long reviews v3 waits for ratings; productpage waits 3 s for details and reviews."""
HELD_S = 2.5
"""Proxies keep a request for a replica that restarts for some 8 s, and hardly ever less than 3:
twenty back-offs of random length. Who is still not there by then is slow, not lost.
"""
_CALLER = Path(__file__).with_name("caller.py").read_text()


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it began and ended (monotonic seconds), who answered, what went wrong."""

    url: str
    began: float
    ended: float
    by: str = ""
    error: str = ""
    impatient: bool = False

    def __str__(self) -> str:
        return f"{self.url}: {self.error} after {self.ended - self.began:.2f} s"


def sample(
    url: str, began: float, ended: float, status: int, by: str, text: str
) -> Sample:
    """What a caller says, judged."""
    if status == 503 and ended - began >= HELD_S:
        return Sample(url, began, ended, by, impatient=True)
    if status != 200:
        return Sample(url, began, ended, by, f"status {status}: {text}")
    if text and ended - began < GIVES_UP_S:
        return Sample(url, began, ended, by, f"the page says: {text}")
    return Sample(url, began, ended, by, impatient=bool(text))


@dataclass
class Load:
    """Used as a context manager: the load runs inside, and all answers are in when it is left.

    `inside` is the container from which `urls` are called; empty for the browsers alone.
    """

    inside: str = INSIDE
    urls: Sequence[str] = SERVICES
    samples: list[Sample] = field(default_factory=list)
    _callers: list[tuple[subprocess.Popen[str], threading.Thread]] = field(
        default_factory=list
    )

    def __enter__(self) -> Self:
        self._start(sys.executable, urls=(PAGE, PAGE))
        if self.inside:
            self._start("docker", "exec", "-i", self.inside, "python3", urls=self.urls)
        return self

    def __exit__(self, *_: object) -> None:
        for process, reader in self._callers:
            assert process.stdin
            process.stdin.close()
            try:
                assert process.wait(60 * SLACK) == 0, (
                    "a caller did not end as it should"
                )
            finally:
                process.kill()
                reader.join()

    def _start(self, *python: str, urls: Sequence[str]) -> None:
        command = [*python, "-c", _CALLER, str(PACE_S), *urls]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        self._callers.append((process, reader))

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.samples.append(sample(*json.loads(line)))

    @property
    def callers(self) -> int:
        """How many requests can be in hand at once."""
        return 2 + (len(self.urls) if self.inside else 0)

    def warmed(self) -> None:
        """Wait until the load flows: every version of reviews, if it is called, and the page."""
        wanted = {"productpage-v1"} | (
            {"reviews-v1", "reviews-v2", "reviews-v3"}
            if self.urls is SERVICES
            else set()
        )
        until(
            lambda: wanted <= {s.by for s in list(self.samples)},
            f"answers of {sorted(wanted)}",
        )

    def settle(self, requests: int = 40) -> None:
        """Wait for so many answers to requests that begin from now on, so that a fault that shows
        late is seen.
        """
        now = time.monotonic()
        until(lambda: len(self.since(now)) >= requests, f"{requests} more answers")

    def since(self, moment: float, by: str = "") -> list[Sample]:
        """Answered requests that began after a moment, by one workload if it is named."""
        return [s for s in list(self.samples) if s.began >= moment and by in {"", s.by}]

    def failures(self, in_hand: Sequence[tuple[float, float]] = ()) -> list[Sample]:
        """Failed requests, except those that were under way while something was being killed."""
        return [s for s in self.samples if s.error and not _overlaps(s, in_hand)]

    def assert_none_failed(self, *in_hand: tuple[float, float]) -> None:
        """No request failed, but at most one of each caller for each moment at which something was
        killed.
        """
        assert self.failures(in_hand) == [], self.report()
        for span in in_hand:
            lost = [s for s in self.samples if s.error and _overlaps(s, [span])]
            assert len(lost) <= self.callers, self.report()

    def report(self) -> str:
        """What happened, for a failed assertion."""
        failed = [s for s in self.samples if s.error]
        first = min((s.began for s in self.samples), default=0.0)
        slowest = max((s.ended - s.began for s in self.samples), default=0.0)
        impatient = sum(s.impatient for s in self.samples)
        head = (
            f"{len(self.samples)} requests, {len(failed)} failed, {impatient} given up after"
            f" {GIVES_UP_S:g} s or more"
        )
        answered = dict(Counter(s.by for s in self.samples))
        lines = [f"  at {s.began - first:.2f} s: {s}" for s in failed[:10]]
        return "\n".join([f"{head}, slowest {slowest:.2f} s, {answered}", *lines])


def _overlaps(request: Sample, spans: Sequence[tuple[float, float]]) -> bool:
    return any(request.began <= end and request.ended >= start for start, end in spans)


@contextmanager
def steady_load(url: str) -> Iterator[Counter[int]]:
    """One request after the other, counted by their status."""
    seen: Counter[int] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                seen[get(url)[0]] += 1
            except OSError:
                seen[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
