"""Kubernetes' protobuf of Namespaces and Secrets: what `kubectl create namespace` and `create
secret` send.

Of the metadata only name, namespace, labels and annotations are read. The wire format is decoded
here, as no package has the messages.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from dockermesh.kubeapi.status import bad_request

_MAGIC = b"k8s\x00"
_TYPE_META, _RAW = 1, 2  # of runtime.Unknown
_KIND = 2  # of TypeMeta
_METADATA = 1  # of Namespace and Secret
_DATA, _TYPE = 2, 3  # of Secret
_NAME, _NAMESPACE, _LABELS, _ANNOTATIONS = 1, 3, 11, 12  # of ObjectMeta
_KEY, _VALUE = 1, 2  # of an entry of a map


def read_protobuf(data: bytes) -> dict[str, Any]:
    """The Namespace or Secret in a request's body. Raises StatusError (400)."""
    if not data.startswith(_MAGIC):
        raise bad_request("the body is no protobuf of Kubernetes")

    try:
        unknown = data[len(_MAGIC) :]
        raw = _last(unknown, _RAW)
        kind = _last(_last(unknown, _TYPE_META), _KIND).decode()
        meta = _last(raw, _METADATA)
        metadata: dict[str, Any] = {"name": _last(meta, _NAME).decode()}
        if namespace := _last(meta, _NAMESPACE).decode():
            metadata["namespace"] = namespace
        for field, number in (("labels", _LABELS), ("annotations", _ANNOTATIONS)):
            if entries := {k: v.decode() for k, v in _map(meta, number).items()}:
                metadata[field] = entries
        document = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
        if kind == "Secret":
            data_ = {
                k: base64.b64encode(v).decode() for k, v in _map(raw, _DATA).items()
            }
            document |= {"data": data_, "type": _last(raw, _TYPE).decode()}
    except ValueError as error:
        raise bad_request(f"the body cannot be decoded: {error}") from error

    return document


def _map(data: bytes, number: int) -> dict[str, bytes]:
    return {
        _last(entry, _KEY).decode(): _last(entry, _VALUE)
        for n, entry in _fields(data)
        if n == number
    }


def _last(data: bytes, wanted: int) -> bytes:
    # protobuf: of a field that is given twice, the last one counts.
    return next(
        (value for number, value in reversed(list(_fields(data))) if number == wanted),
        b"",
    )


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; numbers are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        # Fixed numbers of 64 and 32 bits.
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
