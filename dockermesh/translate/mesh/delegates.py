"""VirtualServices whose rules delegate to others, with the delegates' rules put in their place.

Source of the rules: Istio's VirtualService reference ("Delegate") and
`pilot/pkg/model/virtualservice.go`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.virtual_service import (
    HTTPMatchRequest,
    HTTPRoute,
    VirtualService,
)
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.visibility import is_exported

_INHERITED = (
    "rewrite",
    "direct_response",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirror_percentage",
    "cors_policy",
    "headers",
)
Key = tuple[str, str]
_Cached = tuple[tuple[Resource[VirtualService], ...], Resource[VirtualService]]


class Delegation:
    """Resolves delegates; what neither root nor delegates changed is the same object as before."""

    def __init__(self) -> None:
        self._known: dict[Key, _Cached] = {}

    def resolve(
        self, services: Iterable[Resource[VirtualService]]
    ) -> tuple[Resource[VirtualService], ...]:
        """The VirtualServices that have hosts, with all their rules."""
        listed = tuple(services)
        by_name = {(r.namespace, r.name): r for r in listed}
        known: dict[Key, _Cached] = {}
        resolved = []

        for root in listed:
            if not root.spec.hosts:
                continue
            keys = _delegates(root)
            if not keys:
                resolved.append(root)
                continue

            inputs = (root, *(by_name[key] for key in keys if key in by_name))
            old = self._known.get((root.namespace, root.name))
            if old is None or not _are_same(old[0], inputs):
                spec = replace(root.spec, http=_rules(root, by_name))
                old = (inputs, replace(root, spec=spec))

            known[root.namespace, root.name] = old
            resolved.append(old[1])

        self._known = known
        return tuple(resolved)


def _are_same(ones: Sequence[object], others: Sequence[object]) -> bool:
    return len(ones) == len(others) and all(map(operator.is_, ones, others))


def _delegates(root: Resource[VirtualService]) -> list[Key]:
    named = (rule.delegate for rule in root.spec.http)
    return [(d.namespace or root.namespace, d.name) for d in named if d is not None]


def _rules(
    root: Resource[VirtualService], by_name: Mapping[Key, Resource[VirtualService]]
) -> tuple[HTTPRoute, ...]:
    rules: list[HTTPRoute] = []
    for rule in root.spec.http:
        if rule.delegate is None:
            rules.append(rule)
            continue

        found = by_name.get(
            (rule.delegate.namespace or root.namespace, rule.delegate.name)
        )
        # Without its delegate a rule decides nothing: requests go on to the next one, as in Istio.
        if found is not None and _may_stand_in(found, root):
            rules.extend(_merged(rule, found))

    return tuple(rules)


def _may_stand_in(
    delegate: Resource[VirtualService], root: Resource[VirtualService]
) -> bool:
    # What has hosts routes for itself; a delegate has none by which anybody could reach it.
    return not delegate.spec.hosts and is_exported(
        delegate.spec.export_to, delegate.namespace, root.namespace
    )


def _merged(rule: HTTPRoute, delegate: Resource[VirtualService]) -> Iterator[HTTPRoute]:
    for own in delegate.spec.http:
        # One level only, as in Istio: there can be no circle.
        merged = _merge(rule, own) if own.delegate is None else None
        if merged is not None:
            yield merged


def _merge(root: HTTPRoute, delegate: HTTPRoute) -> HTTPRoute | None:
    """The delegate's rule under the root's conditions; None if both can never hold."""
    matches: tuple[HTTPMatchRequest, ...] = root.match or delegate.match
    if root.match and delegate.match:
        matches = _both(root.match, delegate.match)
        # None at all would hold for every request.
        if not matches:
            return None

    taken = {
        name: value
        for name in _INHERITED
        if not getattr(delegate, name) and (value := getattr(root, name))
    }
    name = _joined(root.name, delegate.name)
    return replace(delegate, name=name, match=matches, **taken)


def _joined(*names: str) -> str:
    return "-".join(name for name in names if name)


def _both(
    ones: Iterable[HTTPMatchRequest], others: Sequence[HTTPMatchRequest]
) -> tuple[HTTPMatchRequest, ...]:
    """Each of the one with each of the other, where they do not contradict each other."""
    pairs = (merge_matches(one, other) for one in ones for other in others)
    return tuple(m for m in pairs if m is not None)


def merge_matches(
    root: HTTPMatchRequest, delegate: HTTPMatchRequest
) -> HTTPMatchRequest | None:
    """Both conditions at once; None where they contradict each other."""
    uri = _uri(root.uri, delegate.uri)
    if uri is False:
        return None

    changes: dict[str, Any] = {
        "uri": uri,
        "name": _joined(root.name, delegate.name),
    }
    for name in (
        "scheme",
        "method",
        "authority",
        "port",
        "gateways",
        "source_namespace",
        "stat_prefix",
    ):
        one, other = getattr(root, name), getattr(delegate, name)
        if _contradict(one, other):
            return None
        changes[name] = one or other

    for name in ("headers", "without_headers", "query_params", "source_labels"):
        one, other = getattr(root, name), getattr(delegate, name)
        if any(one[key] != other[key] for key in one.keys() & other.keys()):
            return None
        changes[name] = {**one, **other}

    return replace(
        delegate,
        ignore_uri_case=root.ignore_uri_case or delegate.ignore_uri_case,
        **changes,
    )


def _contradict(one: object, other: object) -> bool:
    # What is empty says nothing.
    return bool(one and other) and one != other


def _uri(
    root: StringMatch | None, delegate: StringMatch | None
) -> StringMatch | bool | None:
    """The narrower path condition; False if they contradict each other or cannot be compared."""
    if root is None or delegate is None:
        return delegate or root
    if root == delegate:
        return delegate
    narrower = delegate.exact if delegate.exact is not None else delegate.prefix
    # Only under a prefix can a path be narrower: regular expressions cannot be compared.
    if root.prefix is None or narrower is None or not narrower.startswith(root.prefix):
        return False
    return delegate
