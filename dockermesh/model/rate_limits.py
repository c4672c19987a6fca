"""Limits as a limiter knows them: which descriptors of requests are counted, and how many may pass.

A limiter is asked with descriptors, lists of a key and a value each. The limits of a domain are a
tree by these: each level is one entry, and a descriptor has the limit of the node where its last
entry leads. What asks, and where the limits are written, is no matter here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Per(IntEnum):
    """A unit of time, in seconds."""

    SECOND = 1
    MINUTE = 60
    HOUR = 3_600
    DAY = 86_400
    WEEK = 604_800
    MONTH = 2_592_000
    YEAR = 31_536_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in a unit of time, `burst` of them at once."""

    requests: int
    per: Per
    burst: int


@dataclass(frozen=True, slots=True)
class CountedLimit:
    """What counts, once its place in the tree is found.

    Without a rate nothing is counted, and all passes. `name` is what metrics and answers say;
    `replaces` are the names of those that do not count beside this one. In `shadow` it refuses
    nothing. Where values are `shared`, all that reach it have one bucket. `detailed`: its metrics
    tell values apart. `body` is the answer to who is refused; `tells_name` puts the name beside it.
    """

    name: str
    rate: Rate | None = None
    shadow: bool = False
    shared: bool = False
    detailed: bool = False
    replaces: tuple[str, ...] = ()
    body: str = ""
    # Of a limit with an answer of its own, as the local ones say.
    tells_name: bool = False


@dataclass(frozen=True, slots=True)
class LimitNode:
    """A level of the tree. Of what follows, an exact value counts before the longest prefix, and
    that before any value.
    """

    limit: CountedLimit | None = None
    exact: Mapping[tuple[str, str], LimitNode] = field(default_factory=dict)
    # The longest first.
    prefixes: tuple[tuple[str, str, LimitNode], ...] = ()
    any_value: Mapping[str, LimitNode] = field(default_factory=dict)

    def follow(self, key: str, value: str) -> LimitNode | None:
        """Where an entry leads."""
        found = self.exact.get((key, value))
        if found is not None:
            return found
        for wanted, prefix, node in self.prefixes:
            if wanted == key and value.startswith(prefix):
                return node
        return self.any_value.get(key)


LimitDomains = Mapping[tuple[str, str], LimitNode]
"""The trees, by who is asked (the name that a proxy dials) and by domain."""
