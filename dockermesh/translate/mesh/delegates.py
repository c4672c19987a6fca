"""VirtualServices whose rules delegate to others, with the delegates' rules put in their place.

Source of the rules: Istio's VirtualService reference ("Delegate") and
`pilot/pkg/model/virtualservice.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
            delegates = tuple(
                by_name[key] for key in _delegates(root) if key in by_name
            )

            if any(rule.delegate is not None for rule in root.spec.http):
                inputs = (root, *delegates)
                old = self._known.get((root.namespace, root.name))
                is_same = old is not None and len(old[0]) == len(inputs)

                if (
                    old is None
                    or not is_same
                    or any(a is not b for a, b in zip(old[0], inputs, strict=True))
                ):
                    old = (
                        inputs,
                        replace(
                            root, spec=replace(root.spec, http=_rules(root, by_name))
                        ),
                    )

                known[root.namespace, root.name] = old
                resolved.append(old[1])
            else:
                resolved.append(root)

        self._known = known
        return tuple(resolved)


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
        if found is None or found.spec.hosts:
            continue
        if not is_exported(found.spec.export_to, found.namespace, root.namespace):
            continue
        merged = (_merge(rule, own) for own in found.spec.http if own.delegate is None)
        rules.extend(r for r in merged if r is not None)

    return tuple(rules)


def _merge(root: HTTPRoute, delegate: HTTPRoute) -> HTTPRoute | None:
    """The delegate's rule under the root's conditions; None if both can never hold."""
    matches: tuple[HTTPMatchRequest, ...] = root.match or delegate.match
    if root.match and delegate.match:
        pairs = (
            merge_matches(one, other) for one in root.match for other in delegate.match
        )
        matches = tuple(m for m in pairs if m is not None)
        if not matches:
            return None

    taken = {
        name: value
        for name in _INHERITED
        if not getattr(delegate, name) and (value := getattr(root, name))
    }
    name = "-".join(part for part in (root.name, delegate.name) if part)
    return replace(delegate, name=name, match=matches, **taken)


def merge_matches(
    root: HTTPMatchRequest, delegate: HTTPMatchRequest
) -> HTTPMatchRequest | None:
    """Both conditions at once; None where they contradict each other."""
    uri = _uri(root.uri, delegate.uri)
    if uri is False:
        return None

    changes: dict[str, Any] = {
        "uri": uri,
        "name": "-".join(n for n in (root.name, delegate.name) if n),
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
        if one and other and one != other:
            return None
        changes[name] = one or other

    for name in ("headers", "without_headers", "query_params", "source_labels"):
        one, other = getattr(root, name), getattr(delegate, name)
        if any(key in other and other[key] != value for key, value in one.items()):
            return None
        changes[name] = {**one, **other}

    return replace(
        delegate,
        ignore_uri_case=root.ignore_uri_case or delegate.ignore_uri_case,
        **changes,
    )


def _uri(
    root: StringMatch | None, delegate: StringMatch | None
) -> StringMatch | bool | None:
    """The narrower path condition; False if they contradict each other or cannot be compared."""
    if root is None or delegate is None:
        return delegate or root
    if root == delegate:
        return delegate
    narrower = delegate.exact if delegate.exact is not None else delegate.prefix
    if root.prefix is None or narrower is None or not narrower.startswith(root.prefix):
        return False
    return delegate
