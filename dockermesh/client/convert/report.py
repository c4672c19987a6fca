"""What became of each resource: a line of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from dockermesh.client.convert.mixer import Item


class Verdict(IntEnum):
    """How well it could be said; of several the worst counts."""

    KEPT = 0
    UNUSED = 1
    TRANSLATED = 2
    APPROXIMATED = 3
    IMPOSSIBLE = 4

    @property
    def words(self) -> str:
        """As the report says it."""
        return {
            Verdict.KEPT: "kept",
            Verdict.UNUSED: "left out",
            Verdict.TRANSLATED: "translated",
            Verdict.APPROXIMATED: "approximated",
            Verdict.IMPOSSIBLE: "not possible",
        }[self]


@dataclass(frozen=True, slots=True)
class Line:
    """One resource of the input."""

    item: Item
    verdict: Verdict
    text: str
    # Whether it refused requests, so that without it more would pass.
    guards: bool = False


@dataclass(slots=True)
class _Said:
    verdict: Verdict = Verdict.KEPT
    # Ordered sets: what it became, and how or why.
    made: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def text(self) -> str:
        made, notes = ", ".join(self.made), "; ".join(self.notes)
        return ": ".join(part for part in (made, notes) if part)


@dataclass(slots=True)
class Ledger:
    """What is said of each resource, as it is found out."""

    _said: dict[Item, _Said] = field(default_factory=dict)
    _guards: set[Item] = field(default_factory=set)

    def made(
        self, verdict: Verdict, what: str, notes: Sequence[str], item: Item
    ) -> None:
        """Note what the item became, and what was assumed."""
        said = self._said.setdefault(item, _Said())
        said.verdict = max(said.verdict, verdict)
        said.made[what] = None
        said.notes.update(dict.fromkeys(notes))

    def say(self, verdict: Verdict, why: str, *items: Item) -> None:
        """Note what became of the items, and why."""
        for item in items:
            said = self._said.setdefault(item, _Said())
            said.verdict = max(said.verdict, verdict)
            if why:
                said.notes[why] = None

    def has(self, item: Item) -> bool:
        """Whether something is said of it."""
        return item in self._said

    def guard(self, *items: Item) -> None:
        """Note that the items refused requests."""
        self._guards.update(items)

    def lines(self, items: Sequence[Item]) -> Iterator[Line]:
        """The report, in the order of the input."""
        unused = _Said(
            Verdict.UNUSED, notes={"no rule uses it, so it did nothing": None}
        )
        for item in items:
            said = self._said.get(item, unused)
            yield Line(item, said.verdict, said.text, item in self._guards)
