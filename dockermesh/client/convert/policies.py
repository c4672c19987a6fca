"""`denier` and `listchecker` as AuthorizationPolicies.

All of Mixer's checks had to pass, so each becomes a policy that denies: of a whitelist what it does
not have. Such policies add up as the checks did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from dockermesh.client.convert.callers import Callers
from dockermesh.client.convert.conditions import (
    ANY,
    Alternative,
    Test,
    absent,
    alternatives,
    matches,
    pattern_of_regex,
    subject_of,
)
from dockermesh.client.convert.destinations import Place, split
from dockermesh.client.convert.expression import Inexpressible, parse
from dockermesh.client.convert.mixer import Action, sequence, text

_FORBIDDEN = "7"
"""gRPC's PERMISSION_DENIED, which is HTTP's 403."""
_MTLS = "callers without mutual TLS have no account (PeerAuthentication STRICT refuses them)"
_BYTES = "on TCP ports, where there are no requests, all is denied: name ports if it has such"
_SOURCES = {
    "source.principal": "principals",
    "source.user": "principals",
    "source.namespace": "namespaces",
    "source.workload.namespace": "namespaces",
    "source.ip": "ipBlocks",
    "origin.ip": "remoteIpBlocks",
    "request.auth.principal": "requestPrincipals",
}
_OPERATIONS = {
    "request.host": "hosts",
    "request.method": "methods",
    "request.path": "paths",
    "request.url_path": "paths",
    "destination.port": "ports",
}
_CONDITIONS = {
    "request.headers": "request.headers[{key}]",
    "request.useragent": "request.headers[user-agent]",
    "request.referer": "request.headers[referer]",
    "request.auth.claims": "request.auth.claims[{key}]",
    "request.auth.audiences": "request.auth.audiences",
    "request.auth.presenter": "request.auth.presenter",
    "destination.ip": "destination.ip",
    "connection.sni": "connection.sni",
    "connection.requested_server_name": "connection.sni",
}
_OPTIONAL = frozenset({"principals", "namespaces", "requestPrincipals"})
"""What a request may lack."""


@dataclass(slots=True)
class Denial:
    """Policies by where they are, and what was assumed."""

    rules: dict[Place, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def policies(self, name: str) -> list[dict[str, Any]]:
        """The resources."""
        several = len(self.rules) > 1
        return [
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {
                    "name": f"{name}-{number}" if several else name,
                    "namespace": place.namespace,
                },
                "spec": {**place.selector, "action": "DENY", "rules": rules},
            }
            for number, (place, rules) in enumerate(self.rules.items(), 1)
        ]


def denial(action: Action, callers: Callers) -> Denial:
    """What the action of a rule denies. Raises Inexpressible."""
    found = Denial()
    for alternative in alternatives(parse(action.match or "true")):
        for tests in _refused(action):
            places, rest, notes = split((*alternative, *tests), action.rule.namespace)
            rule = _Rule(callers)
            rule.add(rest)
            found.notes.extend((*notes, *rule.notes))
            for place in places:
                found.rules.setdefault(place, []).append(rule.data())
    if not found.rules:
        raise Inexpressible("its match never holds")
    found.notes = list(dict.fromkeys((*found.notes, *_answer(action))))
    return found


def _answer(action: Action) -> list[str]:
    status = action.handler.params.get("status")
    code = text(status.get("code")) if isinstance(status, Mapping) else ""
    if code in ("", _FORBIDDEN):
        return []
    return [f"the answer is 403, whatever gRPC's code {code} was as a status of HTTP"]


def _refused(action: Action) -> list[Alternative]:
    """Which values are refused, beside what the rule asks for."""
    if action.handler.type == "denier":
        return [()]
    params = action.handler.params
    if params.get("providerUrl"):
        raise Inexpressible(
            "its list is fetched from providerUrl: write it into overrides, or ask an external"
            " authorizer (AuthorizationPolicy with action CUSTOM)"
        )
    value = action.instance.params.get("value")
    attribute, stand_in = subject_of(parse(text(value)))
    listed = _entries(
        [text(each) for each in sequence(params.get("overrides"))],
        text(params.get("entryType")) or "STRINGS",
    )
    on_list = stand_in is not None and _is_listed(stand_in, listed, attribute.name)
    if text(params.get("blacklist")) == "true":
        if not listed:
            raise Inexpressible("its list is empty, so it refuses nothing")
        refused: list[Alternative] = [(Test(attribute, listed),)]
        return [*refused, (absent(attribute),)] if on_list else refused
    if not listed:
        return [()]
    return [(Test(attribute, listed, negated=True, if_absent=not on_list),)]


def _is_listed(value: str, listed: tuple[str, ...], attribute: str) -> bool:
    if not attribute.endswith(".ip"):
        return matches(value, listed)
    try:
        address = ip_network(value)
        return any(
            address.version == ip_network(each).version
            and address.subnet_of(ip_network(each))  # type: ignore[arg-type]
            for each in listed
        )
    except ValueError:
        return False


def _entries(listed: list[str], kind: str) -> tuple[str, ...]:
    if kind == "CASE_INSENSITIVE_STRINGS":
        raise Inexpressible("policies compare in the case that is given")
    if kind == "REGEX":
        return tuple(pattern_of_regex(each) for each in listed)
    if kind == "IP_ADDRESSES":
        try:
            return tuple(str(ip_network(each, strict=False)) for each in listed)
        except ValueError as error:
            raise Inexpressible(f"its list: {error}") from None
    for each in listed:
        if each.startswith(ANY) or each.endswith(ANY):
            raise Inexpressible(f"{each!r} would be a pattern, because of its asterisk")
    return tuple(listed)


class _Rule:
    """One rule of a policy, made of tests."""

    def __init__(self, callers: Callers) -> None:
        self.notes: list[str] = []
        self._callers = callers
        self._source: dict[str, list[str]] = {}
        self._operation: dict[str, list[str]] = {}
        self._when: list[dict[str, Any]] = []

    def add(self, tests: Alternative) -> None:
        """All of an alternative's tests."""
        self._add_labels([t for t in tests if t.attribute.name == "source.labels"])
        has_requests = any(_is_of_requests(test) for test in tests)
        for test in tests:
            name = test.attribute.name
            if name == "source.labels" or (name == "context.protocol" and has_requests):
                continue
            if name == "connection.mtls":
                self._limit(
                    self._source,
                    "principals",
                    (ANY,),
                    negated=test.negated is (test.values == ("true",)),
                )
            elif name in _SOURCES:
                self._add_field(
                    self._source, _SOURCES[name], _source_values(test), test
                )
            elif name in _OPERATIONS:
                values = tuple(_operation_value(name, each) for each in test.values)
                self._add_field(self._operation, _OPERATIONS[name], values, test)
            elif name in _CONDITIONS:
                self._add_condition(test)
            else:
                raise Inexpressible(f"policies know no {test.attribute}")
        if has_requests and "ports" not in self._operation:
            self.notes.append(_BYTES)

    def data(self) -> dict[str, Any]:
        """As it stands in a policy; `{}` is every request."""
        rule: dict[str, Any] = {}
        if self._source:
            rule["from"] = [{"source": self._source}]
        if self._operation:
            rule["to"] = [{"operation": self._operation}]
        if self._when:
            rule["when"] = self._when
        return rule

    def _add_labels(self, tests: list[Test]) -> None:
        known: dict[str, str] = {}
        for test in tests:
            if test.negated or len(test.values) > 1:
                continue
            if known.setdefault(test.attribute.key, test.values[0]) != test.values[0]:
                raise Inexpressible(f"{test.attribute} cannot have two values")
        varied = [t for t in tests if t.negated or len(t.values) > 1]
        if known and not any(not test.negated for test in varied):
            self._add_callers([known], negated=False)
        for test in varied:
            labels = [{**known, test.attribute.key: value} for value in test.values]
            self._add_callers(labels, negated=test.negated)
            if test.negated and not test.if_absent:
                raise Inexpressible(
                    f"policies cannot tell who has no {test.attribute}; give it a stand-in, as in"
                    f' {test.attribute} | ""'
                )

    def _add_callers(self, wanted: list[dict[str, str]], *, negated: bool) -> None:
        found = [self._callers.principals(labels) for labels in wanted]
        principals = tuple(each for names, _ in found for each in names)
        self._limit(self._source, "principals", principals, negated=negated)
        self.notes.extend(note for _, note in found if note)
        if not negated:
            self.notes.append(_MTLS)

    def _add_field(
        self,
        fields: dict[str, list[str]],
        name: str,
        values: tuple[str, ...],
        test: Test,
    ) -> None:
        self._limit(fields, name, values, negated=test.negated)
        if test.negated and not test.if_absent and name in _OPTIONAL:
            self._limit(fields, name, (ANY,), negated=False)
        if name == "principals" and not test.negated:
            self.notes.append(_MTLS)

    def _limit(
        self,
        fields: dict[str, list[str]],
        name: str,
        values: tuple[str, ...],
        *,
        negated: bool,
    ) -> None:
        if negated:
            key = f"not{name[0].upper()}{name[1:]}"
            fields[key] = [*fields.get(key, []), *values]
        elif fields.get(name, list(values)) != list(values):
            raise Inexpressible(
                f"a rule has one list of {name}, and two must hold here"
            )
        else:
            fields[name] = list(values)

    def _add_condition(self, test: Test) -> None:
        key = test.attribute.key
        if test.attribute.name == "request.headers":
            key = key.lower()
        condition: dict[str, Any] = {
            "key": _CONDITIONS[test.attribute.name].format(key=key)
        }
        if not test.negated:
            condition["values"] = list(test.values)
        else:
            if not test.if_absent:
                condition["values"] = [ANY]
            condition["notValues"] = list(test.values)
        self._when.append(condition)


def _is_of_requests(test: Test) -> bool:
    return test.attribute.name.startswith("request.")


def _source_values(test: Test) -> tuple[str, ...]:
    if _SOURCES[test.attribute.name] != "principals":
        return test.values
    return tuple(_principal(value) for value in test.values)


def _principal(value: str) -> str:
    name = value.removeprefix("spiffe://")
    return name if "/" in name or ANY in name else f"*/sa/{name}"


def _operation_value(name: str, value: str) -> str:
    if _OPERATIONS[name] == "paths" and "?" in value:
        raise Inexpressible(f"policies see paths without their query, so not {value!r}")
    return value
