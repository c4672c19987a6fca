"""Values of protobuf's own types, as Envoy's messages hold them."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, duration_pb2, wrappers_pb2

from dockermesh.translate.envoy.constraints import LONGEST_S


def pack(message: Any) -> any_pb2.Any:
    """The message in a google.protobuf.Any."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


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
