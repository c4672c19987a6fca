"""Dimensions of a quota: what is known from the service that is called, and what tells its requests
apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dockermesh.client.convert import destinations
from dockermesh.client.convert.callers import BY_NAME
from dockermesh.client.convert.conditions import constant_of
from dockermesh.client.convert.expression import (
    Attribute,
    Expression,
    Inexpressible,
    operands,
    parse,
)
from dockermesh.model.contract import CLUSTER_DOMAIN, DEFAULT_TRUST_DOMAIN
from dockermesh.model.identity import Identity

_IDENTITIES = frozenset({"source.principal", "source.user"})
_BY_ACCOUNT = frozenset({"source.name", "source.service", "source.workload.name"})
_HEADERS = {"request.useragent": "user-agent", "request.referer": "referer"}
_ATTRIBUTES = {
    "source.ip": "CLIENT_ADDRESS",
    "origin.ip": "CLIENT_ADDRESS",
    "request.path": "PATH",
    "request.url_path": "PATH",
    **dict.fromkeys((*_IDENTITIES, *_BY_ACCOUNT), "IDENTITY"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A service that a binding names."""

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class By:
    """What tells requests apart."""

    field: str
    value: str
    # In place of what is absent.
    stand_in: str | None = None
    # Whether values are accounts' names, which identities end with.
    by_account: bool = False

    def value_of(self, override: str, namespace: str) -> str:
        """The value of an override as the limit has it."""
        if self.value != "IDENTITY" or self.field != "attribute":
            return override
        if override.startswith("spiffe://"):
            return override
        if "/ns/" in override:
            return f"spiffe://{override}"
        return str(
            Identity(DEFAULT_TRUST_DOMAIN, namespace, override.partition(".")[0])
        )


@dataclass(slots=True)
class Dimensions:
    """The dimensions of one service's requests, by name."""

    known: dict[str, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    by: dict[str, By] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def dimensions(raw: Mapping[str, object], target: Target) -> Dimensions:
    """What the dimensions are for a service. Raises Inexpressible."""
    found = Dimensions()
    for name, written in raw.items():
        _add(found, name, operands(parse(str(written))), target)
    return found


def _add(
    found: Dimensions, name: str, choices: tuple[Expression, ...], target: Target
) -> None:
    first = choices[0]
    constant = constant_of(first)
    if constant is not None:
        found.known[name] = str(constant)
        return
    if not isinstance(first, Attribute):
        raise Inexpressible(f"dimension {name}: only attributes tell requests apart")
    if first.name.startswith("destination."):
        value = _of_target(first, target)
        if value:
            found.known[name] = value
        else:
            found.unknown.add(name)
            found.notes.append(f"dimension {name} is not told apart")
        return

    last = constant_of(choices[-1])
    by = _descriptor(first, None if last is None else str(last), name)
    if by.by_account:
        found.notes.append(BY_NAME)
    if by in found.by.values():
        raise Inexpressible(f"dimension {name} is another one's, too")
    found.by[name] = by


def _of_target(attribute: Attribute, target: Target) -> str:
    name = attribute.name
    if name in destinations.NAMESPACES:
        return target.namespace
    if name in destinations.HOSTS:
        return f"{target.name}.{target.namespace}.{CLUSTER_DOMAIN}"
    if name in destinations.NAMES or attribute == Attribute(
        "destination.labels", "app"
    ):
        return target.name
    if name == "destination.labels":
        return dict(target.labels).get(attribute.key, "")
    return ""


def _descriptor(attribute: Attribute, stand_in: str | None, name: str) -> By:
    if attribute.name == "request.headers":
        return By("header", attribute.key.lower(), stand_in)
    if attribute.name in _HEADERS:
        return By("header", _HEADERS[attribute.name], stand_in)
    if attribute.name == "request.auth.claims":
        return By("claim", attribute.key, stand_in)
    if attribute == Attribute("source.labels", "app"):
        return By("attribute", "IDENTITY", stand_in, by_account=True)
    if attribute.name in _ATTRIBUTES:
        by_account = attribute.name in _BY_ACCOUNT
        return By("attribute", _ATTRIBUTES[attribute.name], stand_in, by_account)
    raise Inexpressible(f"dimension {name}: limits cannot tell apart by {attribute}")
