"""What all proxies counted, in numbers that never fall while somebody looks.

A proxy that starts anew counts from nothing, and one that ends takes its counts with it: what it
had counted stays in the totals. Each request is reported by both sides. What the caller's proxy
says counts, for it knows what never arrived; the server's where the caller has no proxy, and of how
it was called, which only the server's knows.

In a large mesh durations come in pages of their own, of one proxy after the other. What was counted
between two of them (`latest`) then tells how long requests take, and not what two looks differ by.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dockermesh.controlplane.traffic.page import Counts, Key, read_page
from dockermesh.model.traffic import NUMBERS

_SECURITY = ("secure", "plain")
_NOTHING: Mapping[Key, Counts] = {}


class _Pages:
    """The last page of each proxy, and what is in none of them any more."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, dict[Key, Counts]]] = {}
        self._before: dict[Key, Counts] = {}

    def take(self, proxy: str, text: str) -> tuple[Mapping[Key, Counts], ...]:
        """A new page of a proxy: what was in the one before, and what is in this one; nothing where
        it is the same.
        """
        seen = hash(text)
        known, last = self._last.get(proxy, (0, {}))
        # Most proxies of a large mesh have nothing to do for a while.
        if last and known == seen:
            return ()
        page = read_page(text)
        for key, counts in last.items():
            now = page.get(key)
            if now is None or not counts.is_before(now):
                self._keep(key, counts)
        self._last[proxy] = (seen, page)
        return last, page

    def keep(self, proxies: Iterable[str]) -> None:
        """The proxies that there are; of others what they counted."""
        for gone in self._last.keys() - set(proxies):
            for key, counts in self._last.pop(gone)[1].items():
                self._keep(key, counts)

    def total(self) -> dict[Key, Counts]:
        """Of each edge all that was counted."""
        pages = (self._before, *(page for _, page in self._last.values()))
        return _summed(pages)

    def _keep(self, key: Key, counts: Counts) -> None:
        self._before.setdefault(key, Counts()).add(counts)


def _summed(pages: Iterable[Mapping[Key, Counts]]) -> dict[Key, Counts]:
    found: dict[Key, Counts] = {}
    several: set[Key] = set()
    for page in pages:
        for key, counts in page.items():
            first = found.setdefault(key, counts)
            if first is counts:
                continue
            # Most edges are in one page alone, which nobody needs a copy of.
            if key not in several:
                several.add(key)
                found[key] = Counts()
                found[key].add(first)
            found[key].add(counts)
    return found


class Totals:
    """What is known of all edges."""

    def __init__(self) -> None:
        self._counts = _Pages()
        self._durations = _Pages()
        self._latest: dict[str, dict[Key, Counts]] = {}

    def take(self, proxy: str, text: str) -> None:
        """A new page of a proxy."""
        self._counts.take(proxy, text)

    def take_durations(self, proxy: str, text: str) -> None:
        """A new page of a proxy's durations alone."""
        pages = self._durations.take(proxy, text)
        last, page = pages if pages else (_NOTHING, _NOTHING)
        self._latest[proxy] = {
            key: Counts(bounds=counts.bounds, times=times)
            for key, counts in page.items()
            if any(times := counts.times_since(last.get(key)))
        }

    def keep(self, proxies: Iterable[str]) -> None:
        """The proxies that there are; of others what they counted."""
        known = set(proxies)
        self._counts.keep(known)
        self._durations.keep(known)
        self._latest = {p: n for p, n in self._latest.items() if p in known}

    def edges(self) -> Iterator[dict[str, Any]]:
        """All edges as JSON, each once."""
        found, durations = self._counts.total(), self._durations.total()
        latest = _summed(self._latest.values())
        for key in sorted(found):
            reporter, *pair = key
            other = "destination" if reporter == "source" else "source"
            opposite = found.get((other, pair[0], pair[1], pair[2], pair[3], pair[4]))
            if reporter == "source" or opposite is None:
                counts = found[key]
                long = durations.get(key, counts)
                now = latest.get(key)
                recent = now.times if now is not None else array("q")
                yield _edge(key, counts, opposite or counts, long, recent)


def _edge(
    key: Key, counts: Counts, server: Counts, long: Counts, latest: array[int]
) -> dict[str, Any]:
    _, source, source_space, destination, space, service = key
    numbers = {
        name: value
        for name in NUMBERS
        if (value := getattr(server if name in _SECURITY else counts, name))
    }
    return {
        "source": source,
        "source_namespace": source_space,
        "destination": destination,
        "destination_namespace": space,
        "service": service,
        **numbers,
        **({"codes": counts.codes} if counts.codes else {}),
        **({"bounds": long.bounds, "times": list(long.times)} if long.times else {}),
        **({"latest": list(latest)} if latest else {}),
    }
