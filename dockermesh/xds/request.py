"""Requests of both protocols, decoded by hand and remembered, because hundreds of proxies send the
same ones.

Invariant: decoding equal bytes gives equal requests, and any other outcome than a request is
`Malformed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dockermesh.xds.protobuf import Malformed, fields, spans, submessage, text
from dockermesh.xds.responses import NO_NAMES, Names

_NOTHING: Mapping[str, str] = MappingProxyType({})
_CACHE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class DiscoveryRequest:
    """What a request of either protocol says.

    State of the world: `names` is the whole subscription and `body` the bytes that hold it, which
    an ACK repeats. Delta: `names` are added, `unsubscribe` are dropped, `initial` is what the
    client holds from before.
    """

    type_url: str = ""
    nonce: str = ""
    version: str = ""
    names: Names = NO_NAMES
    unsubscribe: Names = NO_NAMES
    initial: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    error: str | None = None
    node: bytes | None = None
    body: bytes = b""


def decode_sotw(raw: bytes) -> DiscoveryRequest:
    """The DiscoveryRequest in `raw`."""
    type_url = nonce = version = ""
    error, node = None, None
    names: list[str] = []
    start, end, holes = -1, -1, False

    for number, value, begin, after in spans(raw):
        if number in (3, 4):
            if number == 3:
                names.append(text(value))
            else:
                type_url = text(value)

            holes = holes or (start >= 0 and begin != end)
            start, end = (begin if start < 0 else start), after
        elif number == 1:
            version = text(value)
        elif number == 2:
            node = submessage(value)
        elif number == 5:
            nonce = text(value)
        elif number == 6:
            error = _status(submessage(value))

    body = b"" if holes or start < 0 else raw[start:end]
    return DiscoveryRequest(
        type_url, nonce, version, frozenset(names), error=error, node=node, body=body
    )


def decode_delta(raw: bytes) -> DiscoveryRequest:
    """The DeltaDiscoveryRequest in `raw`."""
    type_url = nonce = ""
    error, node = None, None
    names: list[str] = []
    dropped: list[str] = []
    initial: dict[str, str] = {}

    for number, value in fields(raw):
        if number == 1:
            node = submessage(value)
        elif number == 2:
            type_url = text(value)
        elif number == 3:
            names.append(text(value))
        elif number == 4:
            dropped.append(text(value))
        elif number == 5:
            entry = {n: text(v) for n, v in fields(submessage(value)) if n in (1, 2)}
            initial[entry.get(1, "")] = entry.get(2, "")
        elif number == 6:
            nonce = text(value)
        elif number == 7:
            error = _status(submessage(value))

    return DiscoveryRequest(
        type_url,
        nonce,
        names=frozenset(names),
        unsubscribe=frozenset(dropped),
        initial=initial or _NOTHING,
        error=error,
        node=node,
    )


def _status(raw: bytes) -> str:
    code, message = 0, ""
    for number, value in fields(raw):
        if number == 1 and isinstance(value, int):
            code = value
        elif number == 2:
            message = text(value)
    return message or f"status {code}"


class Decoder:
    """Decodes requests and keeps those that many streams send alike: subscriptions without node,
    nonce or error.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bool, bytes], DiscoveryRequest] = {}
        self._bytes = 0

    def __call__(self, raw: bytes, *, delta: bool) -> DiscoveryRequest:
        """The request in `raw`; raises Malformed."""
        key = (delta, raw)
        found = self._known.get(key)
        if found is not None:
            return found

        request = (decode_delta if delta else decode_sotw)(raw)
        if (
            request.node is None
            and request.error is None
            and not request.nonce
            and request.names
        ):
            if self._bytes > _CACHE_BYTES:
                self._known.clear()
                self._bytes = 0

            self._known[key] = request
            self._bytes += len(raw)

        return request


__all__ = ["Decoder", "DiscoveryRequest", "Malformed", "decode_delta", "decode_sotw"]
