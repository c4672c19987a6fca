"""Workload records of Consul's KV as values of the model. Pure.

Invariant: a record whose ModifyIndex did not change stays the same object. A record that is not
what the registrar writes is left out with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from dockermesh.model.contract import KEY_WORKLOADS
from dockermesh.model.identity import is_identity_part
from dockermesh.model.workload import Workload
from dockermesh.registry.accept import plain_name, quoted

_NUMBERS = ("published", "probed")
_TEXTS = tuple(
    f.name
    for f in fields(Workload)
    if f.name not in {"kind", "labels", "aliases", "ports", *_NUMBERS}
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
            old = self._known.get(key)
            if old is not None and old[0] == modified:
                known[key] = old
                continue
            try:
                workload = _parse(key, item.get("Value"))
            except (ValueError, TypeError) as error:
                skipped[key] = quoted(str(error))
                continue
            known[key] = (modified, old[1] if old is not None and old[1] == workload else workload)
        self._known = known
        # Of two hosts that claim a name, the one that wrote last is right: the workload has moved.
        ordered = sorted(known.values(), key=lambda pair: pair[0])
        return MappingProxyType({workload.name: workload for _, workload in ordered}), skipped


def _parse(key: str, value: Any) -> Workload:
    _host, slash, name = key.removeprefix(KEY_WORKLOADS).partition("/")
    if not slash or not isinstance(value, bytes | str):
        raise ValueError("not a workload record")
    data = json.loads(value)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if not all(isinstance(data.get(text, ""), str) for text in _TEXTS):
        raise ValueError("a field is not a text")
    if not all(isinstance(number, int) for field in _NUMBERS for number in data.get(field, ())):
        raise ValueError("a field is not a list of ports")
    if not all(isinstance(alias, str) for alias in data.get("aliases", ())):
        raise ValueError("the aliases are not texts")
    labels = data.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise ValueError("the labels are not texts")
    workload = Workload.from_dict(data | {"labels": MappingProxyType(labels)})
    if not plain_name(workload.namespace, ""):
        raise ValueError("the namespace is no name")
    if workload.service_account and not is_identity_part(workload.service_account):
        raise ValueError("the service account cannot be part of an identity")
    if workload.name != name:
        raise ValueError("the record names another workload than its key")
    return workload
