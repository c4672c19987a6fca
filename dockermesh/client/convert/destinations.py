"""Which workloads a rule is for: the tests of its match that are about the destination."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dockermesh.client.convert.conditions import ANY, Alternative, Test
from dockermesh.client.convert.expression import Inexpressible
from dockermesh.model.contract import SYSTEM_NAMESPACE

NAMESPACES = frozenset(
    {
        "destination.namespace",
        "destination.service.namespace",
        "destination.workload.namespace",
    }
)
HOSTS = frozenset({"destination.service", "destination.service.host"})
NAMES = frozenset({"destination.service.name"})
_HOST = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+)?)?")
BY_APP = "workloads of a service are those with its name as the label app"


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace and labels of workloads; the root namespace is for all."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def selector(self) -> dict[str, object]:
        """The field of a spec that says it; none for all workloads of the namespace."""
        if not self.labels:
            return {}
        return {"selector": {"matchLabels": dict(self.labels)}}


def split(
    alternative: Alternative, namespace: str
) -> tuple[list[Place], Alternative, list[str]]:
    """The places of a rule of a namespace, the tests that are about something else, and what was
    assumed. Raises Inexpressible.
    """
    spaces = {namespace}
    choices: list[tuple[str, tuple[str, ...]]] = []
    rest: list[Test] = []
    notes: list[str] = []
    for test in alternative:
        name = test.attribute.name
        if name in NAMESPACES:
            spaces = _narrowed(spaces, _exact_values(test))
        elif name in HOSTS | NAMES:
            services = [
                _service(value, name) for value in _exact_values(test, hosts=True)
            ]
            choices.append(
                ("app", tuple(service for service, _ in services if service))
            )
            named = {space for _, space in services if space}
            spaces = _narrowed(spaces, named) if named else spaces
            notes.append(BY_APP)
        elif name == "destination.labels":
            choices.append((test.attribute.key, _exact_values(test)))
        elif _is_implied(test):
            continue
        else:
            rest.append(test)
    places = [
        Place(space, labels) for space in sorted(spaces) for labels in _labels(choices)
    ]
    return places, tuple(rest), notes


def _is_implied(test: Test) -> bool:
    """What holds of all that a server's proxy sees."""
    return test.attribute.name in (
        "context.reporter.kind",
        "context.reporter.local",
    ) and (not test.negated and set(test.values) <= {"inbound", "true"})


def _exact_values(test: Test, *, hosts: bool = False) -> tuple[str, ...]:
    patterns = [v for v in test.values if v.startswith(ANY) or v.endswith(ANY)]
    if test.negated or (patterns and not hosts):
        raise Inexpressible(
            f"a selector cannot say that {test.attribute} is not a value, or only begins or ends"
            " with one"
        )
    return test.values


def _service(value: str, attribute: str) -> tuple[str, str]:
    """A service's name and namespace, each may be empty."""
    if attribute in NAMES and ANY not in value:
        return value, ""
    if value.endswith(f".{ANY}") and value.count(".") == 1:
        return value.removesuffix(f".{ANY}"), ""
    found = _HOST.fullmatch(
        value.removeprefix(f"{ANY}.") if value.startswith(ANY) else value
    )
    if value.startswith(f"{ANY}."):
        space = value.removeprefix(f"{ANY}.").split(".")[0]
        return "", space
    if found is None:
        raise Inexpressible(f"{value!r} is no service's host")
    return found[1], found[2]


def _narrowed(spaces: set[str], wanted: Iterable[str]) -> set[str]:
    named = set(wanted)
    # A rule of the root namespace is for all of them.
    if spaces == {SYSTEM_NAMESPACE}:
        return named
    if not spaces & named:
        raise Inexpressible(
            f"a rule of namespace {', '.join(sorted(spaces))} is for its own workloads alone"
        )
    return spaces & named


def _labels(
    choices: list[tuple[str, tuple[str, ...]]],
) -> list[tuple[tuple[str, str], ...]]:
    found: list[dict[str, str]] = [{}]
    for key, values in choices:
        if not values:
            continue
        found = [
            {**labels, key: value}
            for labels in found
            for value in values
            if labels.get(key, value) == value
        ]
    return [tuple(sorted(labels.items())) for labels in found]
