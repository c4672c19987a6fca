"""Kubernetes' protobuf of a Namespace: the one object that kubectl (`create namespace`) sends in no other form.

Only name, labels and annotations are read; the wire format is decoded here, as no package has the messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dockermesh.kubeapi.status import bad_request

_MAGIC = b"k8s\x00"
_RAW = 2  # of runtime.Unknown
_METADATA = 1  # of Namespace
_NAME, _LABELS, _ANNOTATIONS = 1, 11, 12  # of ObjectMeta
_KEY, _VALUE = 1, 2  # of an entry of a map


def read_namespace(data: bytes) -> dict[str, Any]:
    """The Namespace in a request's body. Raises Failure (400)."""
    if not data.startswith(_MAGIC):
        raise bad_request("the body is no protobuf of Kubernetes")
    try:
        raw = _last(data[len(_MAGIC) :], _RAW)
        meta = _last(raw, _METADATA)
        metadata: dict[str, Any] = {"name": _last(meta, _NAME).decode()}
        for field, number in (("labels", _LABELS), ("annotations", _ANNOTATIONS)):
            entries = {_last(e, _KEY).decode(): _last(e, _VALUE).decode() for n, e in _fields(meta) if n == number}
            if entries:
                metadata[field] = entries
    except ValueError as error:
        raise bad_request(f"the body cannot be decoded: {error}") from error
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _last(data: bytes, wanted: int) -> bytes:
    return next((value for number, value in reversed(list(_fields(data))) if number == wanted), b"")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; numbers are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is cut off")
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"unknown wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at
