"""Sets of resources made of other sets, each resource by itself and each once.

Invariants: where nothing is done to any resource, a set stays the same object; equal orders and
sets give the same objects, and a set stays a layer over what it was a layer over.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dockermesh.xds.resources import Resource
from dockermesh.xds.snapshot import ResourceSet

_Order = TypeVar("_Order", bound=Hashable)
_Part = TypeVar("_Part", bound=Hashable)


@dataclass(slots=True)
class Rewriting(Generic[_Order, _Part]):
    """`part_of` tells what of an order concerns a resource, or None if nothing does; `make` does
    that to it.
    """

    part_of: Callable[[Resource, _Order], _Part | None]
    make: Callable[[Resource, _Part], Resource]
    _sets: dict[tuple[ResourceSet, _Order], ResourceSet] = field(default_factory=dict)
    _resources: dict[tuple[Resource, _Part], Resource] = field(default_factory=dict)
    _asked: set[tuple[ResourceSet, _Order]] = field(default_factory=set)

    def __call__(self, plain: ResourceSet, order: _Order) -> ResourceSet:
        """The set with what the order says done to its resources."""
        self._asked.add((plain, order))
        found = self._sets.get((plain, order))
        if found is None:
            found = self._sets[plain, order] = self._made(plain, order)
        elif plain.base is not None:
            self._asked.add((plain.base, order))
        return found

    def forget(self) -> None:
        """Let go of what nobody asked for since this was called last."""
        self._sets = {key: s for key, s in self._sets.items() if key in self._asked}
        self._asked.clear()
        if not self._sets:
            self._resources.clear()
            return

        kept = {id(r) for s in self._sets.values() for r in s.own.values()}
        self._resources = {
            key: made for key, made in self._resources.items() if id(made) in kept
        }

    def _made(self, plain: ResourceSet, order: _Order) -> ResourceSet:
        base = self(plain.base, order) if plain.base is not None else None
        before = list(plain.own.values())
        own = [self._resource(r, order) for r in before]
        is_same = base is plain.base and all(
            new is old for new, old in zip(own, before, strict=True)
        )
        return plain if is_same else ResourceSet(own, base=base)

    def _resource(self, plain: Resource, order: _Order) -> Resource:
        part = self.part_of(plain, order)
        if part is None:
            return plain
        found = self._resources.get((plain, part))
        if found is None:
            found = self._resources[plain, part] = self.make(plain, part)
        return found
