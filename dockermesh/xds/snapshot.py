"""What a proxy gets: immutable sets of resources, layered so that proxies share what they have in
common.

Invariant: the version of a set is a hash of its names and bodies, independent of how it is layered
and of the order it was made in; equal versions mean equal content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dockermesh.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
)

# As many bits as a digest has.
DIGEST_MASK = (1 << 96) - 1


class ResourceSet:
    """Resources by name: a few of its own over a base shared with other proxies; the own win.

    Compared by identity first and by version second: keep the same object while nothing changes.
    """

    __slots__ = ("_own", "base", "digest", "version")

    def __init__(
        self, resources: Iterable[Resource] = (), base: ResourceSet | None = None
    ) -> None:
        self._own: Mapping[str, Resource] = {r.name: r for r in resources}
        self.base: ResourceSet | None = base
        # One level only, so that a lookup never costs more than two dictionaries.
        if base is not None and base.base is not None:
            self._own = {**base._own, **self._own}
            self.base = base.base
        self.digest = self._digest()
        self.version = f"{self.digest:024x}"

    def _digest(self) -> int:
        # A sum, so that adding a layer or replacing one resource does not hash the whole set again.
        total = sum(r.digest for r in self._own.values())
        if self.base is not None:
            total += self.base.digest
            total -= sum(
                hidden.digest
                for name in self._own
                if (hidden := self.base.get(name)) is not None
            )
        return total & DIGEST_MASK

    @property
    def own(self) -> Mapping[str, Resource]:
        """The layer above the base."""
        return self._own

    def get(self, name: str) -> Resource | None:
        """The resource of this name."""
        found = self._own.get(name)
        return (
            found
            if found is not None or self.base is None
            else self.base._own.get(name)
        )

    def __contains__(self, name: object) -> bool:
        return name in self._own or (self.base is not None and name in self.base._own)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        if self.base is not None:
            yield from (name for name in self.base._own if name not in self._own)

    def __len__(self) -> int:
        if self.base is None:
            return len(self._own)
        return len(self._own) + sum(name not in self._own for name in self.base._own)

    def values(self) -> Iterator[Resource]:
        """All resources, own layer first."""
        yield from self._own.values()
        if self.base is not None:
            yield from (
                r for name, r in self.base._own.items() if name not in self._own
            )

    def __repr__(self) -> str:
        return f"<ResourceSet {len(self)} {self.version}>"


EMPTY = ResourceSet()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one proxy, or a group of proxies that see the same mesh, is to have."""

    clusters: ResourceSet = EMPTY
    endpoints: ResourceSet = EMPTY
    listeners: ResourceSet = EMPTY
    routes: ResourceSet = EMPTY
    secrets: ResourceSet = EMPTY
    extensions: ResourceSet = EMPTY

    def with_own(self, clusters: ResourceSet, listeners: ResourceSet) -> Snapshot:
        """The same with other clusters and listeners, which many proxies have of their own: not by
        `replace`, either.
        """
        return Snapshot(
            clusters,
            self.endpoints,
            listeners,
            self.routes,
            self.secrets,
            self.extensions,
        )

    def with_secrets(self, secrets: ResourceSet) -> Snapshot:
        """The same with other secrets. Made for every proxy at every publish, hence not by
        `replace`, which is slow.
        """
        return Snapshot(
            self.clusters,
            self.endpoints,
            self.listeners,
            self.routes,
            secrets,
            self.extensions,
        )

    def with_extensions(self, extensions: ResourceSet) -> Snapshot:
        """The same with other extensions."""
        return Snapshot(
            self.clusters,
            self.endpoints,
            self.listeners,
            self.routes,
            self.secrets,
            extensions,
        )

    def of(self, type_url: str) -> ResourceSet:
        """The set of one type; empty for a type that is not known."""
        field = FIELDS.get(type_url)
        return EMPTY if field is None else getattr(self, field)


FIELDS: Mapping[str, str] = {
    SECRET: "secrets",
    CLUSTER: "clusters",
    ENDPOINTS: "endpoints",
    EXTENSION: "extensions",
    LISTENER: "listeners",
    ROUTES: "routes",
}
"""The types served, in the order in which they are sent: what is referred to goes before what
refers to it.
"""


@dataclass(frozen=True, slots=True)
class Diff:
    """What leads from one set to another."""

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


NO_DIFF = Diff()


def _plain_diff(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> Diff:
    changed = tuple(
        n
        for n, r in new.items()
        if (was := old.get(n)) is not r and (not was or was.version != r.version)
    )
    return Diff(changed, tuple(n for n in old if n not in new))


def _diff_of(names: Iterable[str], old: ResourceSet, new: ResourceSet) -> Diff:
    """The difference as far as these names go; each may be in either layer of either set."""
    changed, removed = [], []
    for name in names:
        was, now = old.get(name), new.get(name)
        if now is None:
            if was is not None:
                removed.append(name)
        elif was is None or was.version != now.version:
            changed.append(name)

    return Diff(tuple(changed), tuple(removed))


class Differ:
    """Diffs between sets, each computed once however many proxies ask."""

    def __init__(self) -> None:
        self._known: dict[tuple[ResourceSet | None, ResourceSet | None], Diff] = {}

    def clear(self) -> None:
        """Forget the diffs, and with them the sets they were made of."""
        self._known.clear()

    def __call__(self, old: ResourceSet, new: ResourceSet) -> Diff:
        """What changed from `old` to `new`."""
        if old is new or old.version == new.version:
            return NO_DIFF
        found = self._known.get((old, new))
        if found is None:
            found = self._known[old, new] = self._compute(old, new)
        return found

    def _compute(self, old: ResourceSet, new: ResourceSet) -> Diff:
        if old.base is None or new.base is None:
            return _plain_diff(
                {r.name: r for r in old.values()}, {r.name: r for r in new.values()}
            )
        shared = self(old.base, new.base)
        own = _plain_diff(old.own, new.own)
        # What the own layer hides has not changed for this proxy, whatever changed below it.
        hidden = bool(new.own) and any(
            n in new.own for n in (*shared.changed, *shared.removed)
        )
        if own == NO_DIFF and not hidden:
            return shared

        names = dict.fromkeys(
            (*own.changed, *own.removed, *shared.changed, *shared.removed)
        )
        return _diff_of(names, old, new)
