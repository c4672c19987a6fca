"""Envoy messages merged as Istio merges them (`pkg/proto/merge`): fields that are set win, lists
grow.

Durations and the wrappers of plain values are values, not messages: they are replaced whole.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, symbol_database
from google.protobuf.message import DecodeError

from dockermesh.translate.envoy.packing import pack

_VALUES = frozenset(
    f"google.protobuf.{name}"
    for name in (
        *(
            "Duration",
            "Timestamp",
            "Any",
            "DoubleValue",
            "FloatValue",
            "Int64Value",
            "UInt64Value",
        ),
        *("Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue"),
    )
)


class CannotMerge(ValueError):
    """Two messages that have no common type."""


def merge(target: Any, patch: Any, *, replaces_lists: bool = False) -> None:
    """Merge `patch` into `target`, a message of the same type."""
    for field, value in patch.ListFields():
        name = field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _merge_map(field, getattr(target, name), value)
        elif field.is_repeated:
            if replaces_lists:
                target.ClearField(name)
            getattr(target, name).extend(value)
        elif field.message_type is None:
            setattr(target, name, value)
        elif field.message_type.full_name in _VALUES:
            getattr(target, name).CopyFrom(value)
        else:
            own = getattr(target, name)
            # An empty message is a choice, too: set without any field, it must not get lost.
            own.SetInParent()
            merge(own, value, replaces_lists=replaces_lists)


def _merge_map(field: Any, target: Any, values: Any) -> None:
    is_message = field.message_type.fields_by_name["value"].message_type is not None
    for key in values:
        if is_message:
            # A key replaces the whole entry: what is within is not merged.
            target[key].CopyFrom(values[key])
        else:
            target[key] = values[key]


def merge_any(target: any_pb2.Any, patch: any_pb2.Any) -> None:
    """Merge the message packed in `patch` into the one packed in `target`.

    Raises CannotMerge if they are of different types.
    """
    if target.TypeName() != patch.TypeName():
        raise CannotMerge(
            f"{patch.TypeName()} cannot be merged into {target.TypeName()}"
        )
    try:
        known = symbol_database.Default().GetSymbol(target.TypeName())
        # Packed messages are bytes to each other: they merge only once they are read.
        own, other = known.FromString(target.value), known.FromString(patch.value)
    except (KeyError, DecodeError):
        raise CannotMerge(f"{target.TypeName()} is not known") from None

    merge(own, other)
    target.CopyFrom(pack(own))


def merge_extension(target: Any, patch: Any) -> None:
    """Merge a filter or a transport socket (a name with a `typed_config`) into one that is
    there.
    """
    if patch.name:
        target.name = patch.name
    # What comes by extension discovery is not here to be merged into.
    if patch.HasField("typed_config") and target.HasField("typed_config"):
        merge_any(target.typed_config, patch.typed_config)
