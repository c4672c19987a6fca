"""The little of protobuf's wire format that the hot path needs, without building messages.

Invariant: malformed input raises `Malformed` and nothing else, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# 3 and 4 are groups, which no message of xDS has.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Ten bytes of seven bits hold 64.
_MAX_VARINT_SHIFT = 63


class Malformed(ValueError):
    """Bytes that are not a protobuf message of the expected form."""


def serialised(message: Any) -> bytes:
    """A message of protobuf's own library as bytes that are the same in every process: maps would
    come in any order.
    """
    found: bytes = message.SerializeToString(deterministic=True)
    return found


def varint(value: int) -> bytes:
    """`value` as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def header(number: int, size: int) -> bytes:
    """What stands before `size` bytes of a length-delimited field."""
    return varint(number << 3 | _BYTES) + varint(size)


def frame(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return header(number, len(payload)) + payload


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """The varint at an offset, and the offset after it."""
    value = shift = 0
    try:
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > _MAX_VARINT_SHIFT:
                raise Malformed("varint too long")
    except IndexError:
        raise Malformed("truncated") from None


def spans(raw: bytes) -> Iterator[tuple[int, int | bytes, int, int]]:
    """Every field of a message: number, value, and the offsets where it begins and ends."""
    at, size = 0, len(raw)
    while at < size:
        start = at
        tag, at = read_varint(raw, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes

        if wire == _BYTES:
            length, at = read_varint(raw, at)
            end = at + length
            value = raw[at:end]
        elif wire == _VARINT:
            value, end = read_varint(raw, at)
        elif wire in (_FIXED64, _FIXED32):
            end = at + (8 if wire == _FIXED64 else 4)
            value = raw[at:end]
        else:
            raise Malformed(f"wire type {wire}")

        if end > size or number == 0:
            raise Malformed("truncated")
        at = end
        yield number, value, start, end


def fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field of a message: number and value."""
    for number, value, _, _ in spans(raw):
        yield number, value


def text(value: int | bytes) -> str:
    """A string field's value."""
    if isinstance(value, int):
        raise Malformed("a string was expected")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None


def submessage(value: int | bytes) -> bytes:
    """A message field's value."""
    if isinstance(value, int):
        raise Malformed("a message was expected")
    return value
