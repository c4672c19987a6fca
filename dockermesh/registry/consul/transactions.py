"""Changes of resources as transactions of Consul's KV. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

Operation = dict[str, Any]
"""One entry of the body of `/v1/txn`."""
# Consul takes 64 operations in one transaction, the marker is one; and 512 KiB in all, with values
# in base64. A value that is larger than that takes a request of its own, as it is.
_TRANSACTION = 63
_OCTETS = 400_000


def operation(
    full_key: str, version: int | None, resource: Mapping[str, Any] | None
) -> Operation:
    """The write (None: the removal) of a resource that is at `version` (None: whatever is
    there).
    """
    if resource is not None:
        text = json.dumps(resource, separators=(",", ":"), sort_keys=True)
        return write_text(full_key, version, text)
    if version is None:
        return {"KV": {"Verb": "delete", "Key": full_key}}
    return {"KV": {"Verb": "delete-cas", "Key": full_key, "Index": version}}


def write_text(full_key: str, version: int | None, text: str) -> Operation:
    """The write of a text over what is at `version` (None: whatever is there)."""
    value = base64.b64encode(text.encode()).decode()
    if version is None:
        return {"KV": {"Verb": "set", "Key": full_key, "Value": value}}
    return {"KV": {"Verb": "cas", "Key": full_key, "Value": value, "Index": version}}


def is_large(operation: Operation) -> bool:
    """Whether it is too large for any transaction."""
    return len(operation["KV"].get("Value", "")) > _OCTETS


def transactions(operations: list[Operation]) -> list[list[Operation]]:
    """The operations in as few steps as Consul takes; one step without any if there are none."""
    steps: list[list[Operation]] = [[]]
    size = 0
    for operation in operations:
        octets = len(operation["KV"].get("Value", ""))
        if steps[-1] and (len(steps[-1]) == _TRANSACTION or size + octets > _OCTETS):
            steps.append([])
            size = 0
        steps[-1].append(operation)
        size += octets
    return steps
