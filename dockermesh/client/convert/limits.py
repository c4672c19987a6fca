"""Quotas as RateLimits: one for each service that a QuotaSpecBinding names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from dockermesh.client.convert.conditions import ANY, Alternative, Test, alternatives
from dockermesh.client.convert.destinations import split
from dockermesh.client.convert.dimensions import By, Dimensions, Target, dimensions
from dockermesh.client.convert.expression import Attribute, Inexpressible, parse
from dockermesh.client.convert.mixer import Action, Item, mapping, sequence, text
from dockermesh.client.convert.rates import Rate, rate_of
from dockermesh.config.rules.regex import literal
from dockermesh.model.contract import SYSTEM_NAMESPACE

_LOCAL = "each proxy counts for itself, where Mixer counted for all"
_BUCKET = "a bucket stands for the window: the same rate, and as many at once"
_ABSENT_TOO = "requests without {} count, too; Mixer passed them over"
_NO_IDENTITY = (
    "callers without mutual TLS do not count (PeerAuthentication STRICT refuses them)"
)
_NO_CLAIM = "requests without the claim {} do not count"
_LABEL = re.compile(r"[^a-z0-9-]+")
_ONE = (
    "request.path",
    "request.url_path",
    "request.method",
    "request.host",
    "request.headers",
    "request.useragent",
)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a QuotaSpec's rule has a request take, where it matches."""

    spec: Item
    quota: str
    amount: int
    matches: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Limited:
    """A RateLimit, and what was assumed for it."""

    resource: dict[str, Any]
    notes: tuple[str, ...]


def charges(spec: Item) -> Iterator[Charge]:
    """What a QuotaSpec charges. Raises Inexpressible."""
    for raw in sequence(spec.spec.get("rules")):
        rule = mapping(raw)
        found = tuple(_clause(each) for each in sequence(rule.get("match"))) or ((),)
        for quota in map(mapping, sequence(rule.get("quotas"))):
            amount = text(quota.get("charge", 1))
            if not amount.isdecimal():
                raise Inexpressible(f"a charge is {amount or 'no number'}")
            # What costs nothing is not limited.
            if int(amount):
                yield Charge(spec, text(quota.get("quota")), int(amount), found)


def _clause(raw: Any) -> Alternative:
    tests = []
    for name, wanted in mapping(mapping(raw).get("clause")).items():
        how = mapping(wanted)
        if "exact" in how:
            pattern = text(how["exact"])
        elif "prefix" in how:
            pattern = text(how["prefix"]) + ANY
        else:
            raise Inexpressible(f"a limit's match cannot say {name} by an expression")
        tests.append(Test(Attribute(name), (pattern,)))
    return tuple(tests)


def targets(binding: Item) -> list[Target]:
    """The services of a binding; `*` is all of the mesh. Raises Inexpressible."""
    found = []
    for raw in map(mapping, sequence(binding.spec.get("services"))):
        labels = tuple(
            sorted((str(k), text(v)) for k, v in mapping(raw.get("labels")).items())
        )
        host = text(raw.get("service"))
        if host == ANY:
            found.append(Target(ANY, SYSTEM_NAMESPACE, labels))
            continue
        name, _, rest = (host or text(raw.get("name"))).partition(".")
        namespace = text(raw.get("namespace")) or rest.partition(".")[0]
        if not name:
            raise Inexpressible("a service of it has no name")
        found.append(Target(name, namespace or binding.namespace, labels))
    return found


def limit(name: str, action: Action, charge: Charge, target: Target) -> Limited | None:
    """The RateLimit of a service; None where the rule is not about it. Raises Inexpressible."""
    if target.name == ANY:
        # A rule is for the workloads of its namespace, one of the root namespace for all.
        target = replace(target, namespace=action.rule.namespace)
    concerned = _conditions(action, charge, target)
    if concerned is None:
        return None
    matched, notes = concerned
    quota = _quota(action)
    base = rate_of(quota.get("maxAmount"), quota.get("validDuration"))
    found = dimensions(mapping(action.instance.params.get("dimensions")), target)
    default, named, of_absent = _overrides(quota, base, found, target)
    limits = list(
        _limits(
            _LABEL.sub("-", action.instance.item.name.lower()).strip("-")[:50],
            found,
            matched,
            default.charged(charge.amount),
            [(values, rate.charged(charge.amount)) for values, rate in named],
            None if of_absent is None else of_absent.charged(charge.amount),
        )
    )
    spec: dict[str, Any] = {"limits": limits}
    if target.name != ANY and not target.labels:
        spec = {"targetRefs": [{"kind": "Service", "name": target.name}], **spec}
    elif target.labels or target.name != ANY:
        labels = {"app": target.name} if target.name != ANY else {}
        spec = {"selector": {"matchLabels": labels | dict(target.labels)}, **spec}
    # Mixer was one for all, and without it nothing passed. What of all services tells each apart
    # only its own proxies know.
    is_local = target.name == ANY and bool(found.unknown or found.known)
    if not is_local:
        spec = {"mode": "GLOBAL", "failureMode": "CLOSED", **spec}
    resource = {
        "apiVersion": "dockermesh.io/v1alpha1",
        "kind": "RateLimit",
        "metadata": {"name": name, "namespace": target.namespace},
        "spec": spec,
    }
    unseen = (
        _NO_CLAIM.format(by.value) if by.field == "claim" else _NO_IDENTITY
        for by in found.by.values()
        if by.stand_in is not None and (by.value == "IDENTITY" or by.field == "claim")
    )
    assumed = (*([_LOCAL] if is_local else []), _BUCKET, *notes, *found.notes, *unseen)
    return Limited(resource, tuple(dict.fromkeys(assumed)))


def _quota(action: Action) -> Mapping[str, Any]:
    item = action.instance.item
    names = action.instance.full_names | {item.name}
    for raw in map(mapping, sequence(action.handler.params.get("quotas"))):
        if text(raw.get("name")) in names:
            return raw
    raise Inexpressible(f"{action.handler.item} has no quota for {item}")


def _overrides(
    quota: Mapping[str, Any], base: Rate, found: Dimensions, target: Target
) -> tuple[Rate, list[tuple[tuple[str, ...], Rate]], Rate | None]:
    """The rate of most, those of named values, and that of requests without what tells apart. The
    first override that fits counted.
    """
    named: dict[tuple[str, ...], Rate] = {}
    of_absent: Rate | None = None
    for raw in map(mapping, sequence(quota.get("overrides"))):
        wanted = {k: text(v) for k, v in mapping(raw.get("dimensions")).items()}
        rate = rate_of(
            raw.get("maxAmount"), raw.get("validDuration", quota.get("validDuration"))
        )
        if not _fits(wanted, found, target):
            continue
        values = {key: value for key, value in wanted.items() if key in found.by}
        if not values:
            return rate, list(named.items()), of_absent
        if set(values) != set(found.by):
            raise Inexpressible(
                f"an override of {', '.join(sorted(values))} alone, where a limit tells apart by"
                f" {', '.join(found.by)}"
            )
        if all(values[key] == by.stand_in for key, by in found.by.items()):
            of_absent = of_absent or rate
            continue
        row = tuple(
            by.value_of(values[key], target.namespace) for key, by in found.by.items()
        )
        named.setdefault(row, rate)
    return base, list(named.items()), of_absent


def _fits(wanted: Mapping[str, str], found: Dimensions, target: Target) -> bool:
    """Whether an override may be for requests to the service."""
    if target.name == ANY and set(wanted) & (set(found.known) | found.unknown):
        raise Inexpressible(
            "an override for one destination, where the binding is for all: name the services"
        )
    unsure = set(wanted) & found.unknown
    if any(found.known.get(key, value) != value for key, value in wanted.items()):
        return False
    if unsure:
        raise Inexpressible(
            f"an override of {', '.join(sorted(unsure))}, which the service's name does not tell:"
            " bind its versions by labels"
        )
    return set(wanted) <= set(found.known) | set(found.by)


def _limits(
    name: str,
    found: Dimensions,
    matched: dict[str, Any],
    default: Rate,
    named: Sequence[tuple[tuple[str, ...], Rate]],
    of_absent: Rate | None,
) -> Iterator[dict[str, Any]]:
    """The limit, and those of the requests that lack some of what tells apart."""
    bys = list(found.by.values())
    optional = [by for by in bys if by.field == "header" and by.stand_in is not None]
    for count in range(len(optional) + 1):
        for missing in combinations(optional, count):
            kept = [by for by in bys if by not in missing]
            rate = of_absent if of_absent is not None and not kept else default
            yield _limit(name, kept, missing, matched, rate, [] if missing else named)


def _limit(
    name: str,
    kept: list[By],
    missing: tuple[By, ...],
    matched: dict[str, Any],
    rate: Rate,
    named: Sequence[tuple[tuple[str, ...], Rate]],
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "-".join((name, *(f"without-{by.value}" for by in missing)))[:63],
        **rate.fields(),
    }
    lacks: dict[str, dict[str, str]] = {by.value: {} for by in missing}
    without = {**matched.get("withoutHeaders", {}), **lacks}
    match = {**matched, **({"withoutHeaders": without} if without else {})}
    if match:
        made["match"] = deepcopy(match)
    if kept:
        made["by"] = [{by.field: by.value} for by in kept]
    if named:
        made["named"] = [
            {"values": list(values), **each.fields()} for values, each in named
        ]
    return made


# which requests
# ------------------------------------------------------------------------------------------


def _conditions(
    action: Action, charge: Charge, target: Target
) -> tuple[dict[str, Any], list[str]] | None:
    """The `match` of a limit, and what was assumed; None if the rule is about others."""
    found = []
    for one in alternatives(parse(action.match or "true")):
        for other in charge.matches:
            places, rest, _ = split((*one, *other), action.rule.namespace)
            labels = {"app": target.name, **dict(target.labels)}
            if any(
                place.namespace in (SYSTEM_NAMESPACE, target.namespace)
                and all(labels.get(key) == value for key, value in place.labels)
                for place in places
            ):
                found.append(rest)
    if not found:
        return None
    if len(set(found)) > 1:
        raise Inexpressible(
            "a limit cannot count what fulfils one of several conditions"
        )
    return _match(found[0])


def _match(tests: Alternative) -> tuple[dict[str, Any], list[str]]:
    match: dict[str, Any] = {}
    notes: list[str] = []
    for test in tests:
        name = test.attribute.name
        if name not in _ONE:
            raise Inexpressible(f"a limit's match cannot say {test.attribute}")
        if name in ("request.headers", "request.useragent"):
            header = test.attribute.key.lower() or "user-agent"
            side = "withoutHeaders" if test.negated else "headers"
            if header in match.get(side, {}):
                raise Inexpressible(f"two conditions on {test.attribute}")
            match.setdefault(side, {})[header] = _string(test.values)
            if test.negated and not test.if_absent:
                notes.append(_ABSENT_TOO.format(header))
            continue
        if test.negated:
            raise Inexpressible(
                f"a limit's match cannot say what {test.attribute} is not"
            )
        key = {"request.method": "methods", "request.host": "hosts"}.get(name, "paths")
        values = [_value(key, each) for each in test.values]
        if match.setdefault(key, values) != values:
            raise Inexpressible(f"two conditions on {key}")
    return match, notes


def _value(key: str, pattern: str) -> str:
    if ANY not in pattern:
        return pattern
    if key == "paths" and pattern.endswith(f"/{ANY}") and pattern.count(ANY) == 1:
        return f"{pattern}{ANY}"
    if key == "hosts" and pattern.startswith(f"{ANY}.") and pattern.count(ANY) == 1:
        return pattern
    raise Inexpressible(f"a limit's match cannot say {pattern!r} of {key}")


def _string(patterns: tuple[str, ...]) -> dict[str, str]:
    if patterns == (ANY,):
        return {}
    if len(patterns) == 1 and ANY not in patterns[0]:
        return {"exact": patterns[0]}
    if len(patterns) == 1 and patterns[0].endswith(ANY):
        return {"prefix": patterns[0][:-1]}
    return {"regex": "|".join(map(_expression, patterns))}


def _expression(pattern: str) -> str:
    if pattern.endswith(ANY):
        return f"{literal(pattern[:-1])}.*"
    return f".*{literal(pattern[1:])}" if pattern.startswith(ANY) else literal(pattern)
