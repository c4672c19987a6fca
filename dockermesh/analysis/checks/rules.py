"""Rules of VirtualServices that an earlier rule leaves nothing to.

Source: `analyzeUnreachable...` in Istio's `pkg/config/validation`: equal matches, rules after one
without a match, and path prefixes within other prefixes. Where Istio compares texts, `covers`
decides, so that nothing is reported that could still match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import INEFFECTIVE_MATCH, UNREACHABLE_RULE
from dockermesh.analysis.objects import AnalyzedObject
from dockermesh.config.api.virtual_service import HTTPMatchRequest
from dockermesh.config.findings import Finding, Path
from dockermesh.config.rules.shadowing import covers

_MOST_COMPARED = 200
"""Matches that are compared with each other: enough for people, and it bounds the time for
generated routes.
"""


def unreachable_rules(context: Context) -> Iterator[Finding]:
    """Rules and matches that are never used."""
    for item in context.istio("VirtualService"):
        for protocol in ("http", "tcp", "tls"):
            yield from _repeated(item, protocol, getattr(item.spec, protocol))
        yield from _within_prefixes(item)


def _repeated(
    item: AnalyzedObject, protocol: str, rules: Sequence[Any]
) -> Iterator[Finding]:
    seen: list[tuple[Any, str]] = []
    has_default = False
    for index, rule in enumerate(rules):
        at: Path = ("spec", protocol, index)
        name = _name(rule, index)
        if not rule.match:
            if has_default:
                text = "only the last rule can have no matches"
                yield found(item, UNREACHABLE_RULE, name, text, at=at)
            has_default = True
        elif has_default and protocol == "http":
            yield found(
                item,
                UNREACHABLE_RULE,
                name,
                "a rule without matches comes first",
                at=at,
            )
        else:
            yield from _repeated_matches(item, rule, name, at, seen)


def _repeated_matches(
    item: AnalyzedObject, rule: Any, name: str, at: Path, seen: list[tuple[Any, str]]
) -> Iterator[Finding]:
    """Matches of a rule that an earlier one has in the same words; others are added to `seen`."""
    repeated = 0
    for number, match in enumerate(rule.match):
        condition = _condition(match)
        first = next((owner for known, owner in seen if known == condition), None)
        if first is not None:
            repeated += 1
            place = (*at, "match", number)
            yield found(
                item, INEFFECTIVE_MATCH, name, _name(match, number), first, at=place
            )
        elif len(seen) < _MOST_COMPARED:
            seen.append((condition, name))

    if repeated == len(rule.match):
        yield found(
            item, UNREACHABLE_RULE, name, "all matches used by prior rules", at=at
        )


def _within_prefixes(item: AnalyzedObject) -> Iterator[Finding]:
    earlier: list[tuple[HTTPMatchRequest, str]] = []
    for index, rule in enumerate(item.spec.http):
        for number, match in enumerate(rule.match):
            prefix = match.uri.prefix if match.uri is not None else None
            if not prefix:
                continue

            for known, owner in earlier:
                # Equal prefixes are reported as repeated already.
                if (
                    known.uri is not None
                    and known.uri.prefix != prefix
                    and covers(known, match)
                ):
                    at = ("spec", "http", index, "match", number)
                    what = f"{_name(match, number)} of prefix {prefix}"
                    first = f"{owner} of prefix {known.uri.prefix}"
                    yield found(
                        item, INEFFECTIVE_MATCH, _name(rule, index), what, first, at=at
                    )
                    break
            if len(earlier) < _MOST_COMPARED:
                earlier.append((match, _name(rule, index)))


def _condition(match: Any) -> Any:
    # A name is for people and statistics, no condition.
    return replace(match, name="") if isinstance(match, HTTPMatchRequest) else match


def _name(what: Any, index: int) -> str:
    name = getattr(what, "name", "")
    return f'"{name}"' if name else f"#{index}"
