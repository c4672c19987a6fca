"""Values of protobuf's own types, as Envoy's messages hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import any_pb2, duration_pb2, symbol_database, wrappers_pb2
from google.protobuf.message import DecodeError

from dockermesh.translate.envoy.constraints import LONGEST_S


def pack(message: Any) -> any_pb2.Any:
    """The message in a google.protobuf.Any."""
    packed = any_pb2.Any()
    # Versions are hashes of these bytes: maps in another order would be news to every proxy.
    packed.Pack(message, deterministic=True)
    return packed


def repack(message: Any) -> None:
    """Pack everything within the message as `pack` does, at every depth.

    protobuf's JSON parser packs the entries of maps in an order that each process chooses for
    itself. What is packed is bytes to the message around it, so sorting there comes too late.
    """
    if message.DESCRIPTOR.full_name != "google.protobuf.Any":
        for part in _parts(message):
            repack(part)
        return

    try:
        inner = symbol_database.Default().GetSymbol(message.TypeName())()
        inner.ParseFromString(message.value)
    except (KeyError, DecodeError):
        # Nothing that Envoy could read either; `constraints.violation` says so.
        return

    repack(inner)
    message.value = inner.SerializeToString(deterministic=True)


def _parts(message: Any) -> Iterator[Any]:
    """The messages in the message's own fields."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from value.values()
        elif field.is_repeated:
            yield from value
        else:
            yield value


def seconds(value: float) -> duration_pb2.Duration:
    """A protobuf duration, at most as long as Envoy can count (292 years)."""
    if value >= LONGEST_S:
        return duration_pb2.Duration(seconds=LONGEST_S)
    whole = int(value)
    return duration_pb2.Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def uint32(value: int) -> wrappers_pb2.UInt32Value:
    """A protobuf optional integer."""
    return wrappers_pb2.UInt32Value(value=value)


def uint64(value: int) -> wrappers_pb2.UInt64Value:
    """A protobuf optional large integer."""
    return wrappers_pb2.UInt64Value(value=value)


def boolean(value: bool) -> wrappers_pb2.BoolValue:
    """A protobuf optional boolean."""
    return wrappers_pb2.BoolValue(value=value)
