"""A name server's table as bytes, of which each service has a row: one more costs its own alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dockermesh.xds.protobuf import serialised
from dockermesh.xds.resources import LISTENER, Resource, make_resource

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class NameTable(Generic[_K, _V]):
    """Serialised rows, by what they lead from and to."""

    rows: Mapping[tuple[_K, _V], bytes] = field(default_factory=dict)
    _made: Resource | None = None

    def of(
        self, pairs: Iterable[tuple[_K, _V]], row: Callable[[_K, _V], bytes]
    ) -> NameTable[_K, _V]:
        """The table of these pairs in their order; the same object if nothing differs."""
        known = self.rows
        rows = {pair: known.get(pair) or row(*pair) for pair in pairs}
        return self if [*rows] == [*known] else NameTable(rows)

    def listener(self, make: Callable[[bytes], Any]) -> Resource:
        """The name server, as `make` has it of a serialised table."""
        if self._made is None:
            made = make(b"".join(self.rows.values()))
            self._made = make_resource(LISTENER, made.name, serialised(made))
        return self._made
