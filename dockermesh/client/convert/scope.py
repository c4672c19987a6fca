"""Where and when telemetry is made: a rule's match as workloads, side and condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dockermesh.client.convert.conditions import alternatives
from dockermesh.client.convert.destinations import Place, split
from dockermesh.client.convert.envoy_words import cel
from dockermesh.client.convert.expression import (
    Attribute,
    Call,
    Constant,
    Expression,
    Inexpressible,
    parse,
)

_SIDES = {"inbound": "SERVER", "outbound": "CLIENT"}
_PROTOCOL = "context.protocol"


@dataclass(slots=True)
class Scope:
    """What a rule's match says, and what was left out of it."""

    place: Place
    # Empty: both sides.
    mode: str = ""
    conditions: list[str] = field(default_factory=list)
    is_tcp: bool = False
    event: str = ""
    notes: list[str] = field(default_factory=list)

    def at_selected(self) -> None:
        """Only what a selector chooses reports: proxies of the destination, as servers."""
        if not self.place.labels:
            return
        if self.mode != "SERVER":
            self.notes.append("only the destination's own proxies report")
        self.mode = "SERVER"


def scope_of(match: str, namespace: str) -> Scope:
    """The scope of a rule. Raises Inexpressible where it is for several places."""
    scope = Scope(Place(namespace))
    for part in _parts(parse(match or "true")):
        names = {each.name for each in _attributes(part)}
        if names <= {"context.reporter.kind", "context.reporter.local"} and names:
            scope.mode = _mode(part)
        elif _PROTOCOL in names or "connection.event" in names:
            _note_protocol(scope, part)
        elif names and all(name.startswith("destination.") for name in names):
            _narrow(scope, part)
        elif part != Constant(True):
            scope.conditions.append(cel(part))
    return scope


def _parts(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, Call) and expression.function == "&&":
        for side in expression.arguments:
            yield from _parts(side)
    else:
        yield expression


def _attributes(expression: Expression) -> Iterator[Attribute]:
    if isinstance(expression, Attribute):
        yield expression
    elif isinstance(expression, Call):
        for each in expression.arguments:
            yield from _attributes(each)


def _mode(part: Expression) -> str:
    for alternative in alternatives(part):
        for test in alternative:
            if not test.negated and test.values[0] in _SIDES:
                return _SIDES[test.values[0]]
    raise Inexpressible("its condition on context.reporter is not one side")


def _note_protocol(scope: Scope, part: Expression) -> None:
    for alternative in alternatives(part):
        for test in alternative:
            if test.attribute.name == _PROTOCOL:
                scope.is_tcp = not test.negated and test.values == ("tcp",)
            elif test.attribute.name == "connection.event" and not test.negated:
                scope.event = test.values[0]


def _narrow(scope: Scope, part: Expression) -> None:
    found = alternatives(part)
    if len(found) != 1:
        raise Inexpressible("its match is for several services: write a rule for each")
    places, rest, notes = split(found[0], scope.place.namespace)
    if rest or len(places) != 1:
        raise Inexpressible("its match is for what no selector chooses")
    place = places[0]
    scope.place = Place(
        place.namespace, tuple(sorted({*scope.place.labels, *place.labels}))
    )
    scope.notes.extend(notes)
