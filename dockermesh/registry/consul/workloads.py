"""Workload records of Consul's KV as values of the model. Pure.

Invariant: a record whose ModifyIndex did not change stays the same object. A record that is not
what the registrar writes is left out with a reason.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from dockermesh.model.contract import KEY_WORKLOADS, WORKLOADS_KEPT
from dockermesh.model.identity import is_identity_part
from dockermesh.model.workload import Workload
from dockermesh.registry.accept import plain_name, quoted

_NUMBERS = ("published", "probed")
_MAPPINGS = ("labels", "since", "protocol_rules")
_TEXTS = tuple(
    f.name
    for f in fields(Workload)
    if f.name not in {"kind", "aliases", "bridges", "ports", *_MAPPINGS, *_NUMBERS}
)


class WorkloadRecords:
    """The workloads by name, after each answer of the KV."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Workload]] = {}

    def update(
        self, items: Sequence[Mapping[str, Any]] | None
    ) -> tuple[Mapping[str, Workload], dict[str, str]]:
        """The workloads of this answer, and the keys left out with the reason."""
        known: dict[str, tuple[int, Workload]] = {}
        skipped: dict[str, str] = {}

        for item in items or ():
            key, modified = str(item.get("Key", "")), int(item.get("ModifyIndex", 0))
            if key.endswith(f"/{WORKLOADS_KEPT}"):
                continue
            # Consul gives all records each time; parsing is what costs.
            old = self._known.get(key)
            if old is not None and old[0] == modified:
                known[key] = old
                continue
            try:
                workload = _parse(key, item.get("Value"))
            except (ValueError, TypeError) as error:
                skipped[key] = quoted(str(error))
                continue
            known[key] = (
                modified,
                old[1] if old is not None and old[1] == workload else workload,
            )

        self._known = known
        # Of two hosts that claim a name, the one that wrote last is right: the workload has moved.
        ordered = sorted(known.values(), key=lambda pair: pair[0])
        return MappingProxyType(
            {workload.name: workload for _, workload in ordered}
        ), skipped


def are_kept(items: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether a registrar's mark is there: then records that are not were taken away, not lost."""
    mark = f"/{WORKLOADS_KEPT}"
    return any(str(item.get("Key", "")).endswith(mark) for item in items or ())


def _parse(key: str, value: Any) -> Workload:
    _host, slash, name = key.removeprefix(KEY_WORKLOADS).partition("/")
    if not slash or not isinstance(value, bytes | str):
        raise ValueError("not a workload record")
    data = json.loads(value)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")

    _check_types(data)
    mappings = {name: MappingProxyType(data.get(name, {})) for name in _MAPPINGS}
    workload = Workload.from_dict(data | mappings)
    _check_names(workload, name)
    return workload


def _check_types(data: Mapping[str, Any]) -> None:
    """Raises ValueError where a field is not of the type that the registrar writes."""
    lists = [data.get(field, ()) for field in _NUMBERS]
    labels, since, protocol_rules = (data.get(name, {}) for name in _MAPPINGS)
    rules = (
        (_are(str, (data.get(text, "") for text in _TEXTS)), "a field is not a text"),
        (
            all(_are(int, numbers) for numbers in lists),
            "a field is not a list of ports",
        ),
        (_are(str, data.get("aliases", ())), "the aliases are not texts"),
        (_are_addresses(data.get("bridges", ())), "the bridges are not addresses"),
        (
            isinstance(labels, dict) and _are(str, labels.values()),
            "the labels are not texts",
        ),
        (
            isinstance(since, dict) and _are(int, since.values()),
            "since when it serves is not a time for each name",
        ),
        (
            isinstance(protocol_rules, dict) and _are(str, protocol_rules.values()),
            "what decided protocols is not a text for each port",
        ),
    )
    _raise_first(rules)


def _check_names(workload: Workload, name: str) -> None:
    """Raises ValueError where a text would mean something else in a host name or an identity."""
    account = workload.service_account
    rules = (
        (bool(plain_name(workload.namespace, "")), "the namespace is no name"),
        (
            not account or is_identity_part(account),
            "the service account cannot be part of an identity",
        ),
        (workload.name == name, "the record names another workload than its key"),
    )
    _raise_first(rules)


def _are_addresses(values: Any) -> bool:
    try:
        for value in values:
            ipaddress.ip_address(str(value))
        return _are(str, values)
    except ValueError:
        return False


def _are(kind: type, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _raise_first(rules: Iterable[tuple[bool, str]]) -> None:
    for is_kept, problem in rules:
        if not is_kept:
            raise ValueError(problem)
