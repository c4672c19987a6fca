"""Whose fault a refusal is: which resources of the config made a proxy refuse what came of them.

A proxy says which of its resources it refused. Of what these were made of, that is to blame which
changed since the proxy took all that it was told; where nothing of it did, or the proxy is new, all
of it. Who was found guilty of a refusal stays so while the same words are said and it is the same.

Invariant: nobody is blamed any longer than the proxy's refusal stands.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dockermesh.config.kinds import kind_named
from dockermesh.registry import StoredResource
from dockermesh.translate.provenance import Sources
from dockermesh.xds import Nack
from dockermesh.xds.server import Refusal

Stored = Mapping[str, StoredResource]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Who is to blame for a refusal, each in the version in which it was."""

    nack: Nack
    versions: Mapping[str, int]


def refused_names(nack: Nack) -> list[str]:
    """The resources of a response that the refusal names; all of them if it names none."""
    named = [
        name
        for name in nack.names
        if re.search(rf"(?<![\w.|-]){re.escape(name)}(?![\w|-])", nack.detail)
    ]
    return named or list(nack.names)


class Blame:
    """Keeps who is to blame; `refusals` are those that stand."""

    def __init__(self, refusals: Callable[[], tuple[Refusal, ...]]) -> None:
        self._refusals = refusals
        self._verdicts: dict[tuple[str, str], _Verdict] = {}
        self._counted: tuple[Refusal, ...] | None = None
        self._found: Mapping[str, list[tuple[str, str]]] = {}

    def take(
        self,
        place: tuple[str, str],
        nack: Nack,
        sources: Sources,
        now: Stored,
        accepted: Stored | None,
    ) -> None:
        """A proxy refused something of a type (`place` is its key and the type)."""
        guilty = self._known(place[1], nack.detail, now) or _suspects(
            sources, now, accepted
        )
        self._verdicts[place] = _Verdict(
            nack, {resource: _version(now, resource) for resource in guilty}
        )
        self._counted = None

    def of(self, resource: str) -> list[tuple[str, str]]:
        """The proxies that refuse what came of `Kind namespace/name`, with their words."""
        standing = self._refusals()
        if standing is not self._counted:
            self._count(standing)
        return self._found.get(resource, [])

    def _count(self, standing: tuple[Refusal, ...]) -> None:
        found = defaultdict(list)
        kept = {}
        for key, type_url, nack in standing:
            verdict = self._verdicts.get((key, type_url))
            if verdict is None:
                continue
            kept[key, type_url] = verdict
            for resource in verdict.versions if verdict.nack is nack else ():
                found[resource].append((key, nack.detail))

        self._verdicts, self._found, self._counted = kept, found, standing

    def _known(self, type_url: str, detail: str, now: Stored) -> Iterable[str]:
        """Who was found guilty of these words before, and has not changed since."""
        said = (
            verdict.versions
            for (_, kind), verdict in self._verdicts.items()
            if kind == type_url and verdict.nack.detail == detail
        )
        as_then = (
            versions
            for versions in said
            if all(_version(now, r) == version for r, version in versions.items())
        )
        return next(as_then, ())


def _suspects(sources: Sources, now: Stored, accepted: Stored | None) -> frozenset[str]:
    if accepted is None:
        return sources.certain
    changed = frozenset(
        resource
        for resource in sources.certain | sources.possible
        if _version(now, resource) != _version(accepted, resource)
    )
    return changed or sources.certain


def _version(stored: Stored, resource: str) -> int:
    """The version of `Kind namespace/name`; 0 for what no store has."""
    kind_name, _, full_name = resource.partition(" ")
    kind = kind_named(kind_name)
    group = kind.group if kind is not None else ""
    found = stored.get(f"{group}/{kind_name}/{full_name}")
    return found.version if found is not None else 0
