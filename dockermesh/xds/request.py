"""Requests of both protocols, decoded by hand and remembered, because hundreds of proxies send the
same ones.

Invariant: decoding equal bytes gives equal requests, and any other outcome than a request is
`Malformed`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dockermesh.xds.protobuf import Malformed, fields, spans, submessage, text
from dockermesh.xds.responses import NO_NAMES, Names

_Value = int | bytes
_NOTHING: Mapping[str, str] = MappingProxyType({})
# Of requests as they came; read, with a string per name, they take five times as much.
_CACHE_BYTES = 4 << 20


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
    found = _by_number(fields(raw))

    return DiscoveryRequest(
        type_url=_last_text(found[4]),
        nonce=_last_text(found[5]),
        version=_last_text(found[1]),
        names=frozenset(map(text, found[3])),
        error=_error(found[6]),
        node=_node(found[2]),
        body=_body(raw),
    )


def _body(raw: bytes) -> bytes:
    """The bytes that hold names and type; empty if they do not stand together."""
    start = end = -1
    for number, _, begin, after in spans(raw):
        if number in (3, 4):
            if start < 0:
                start = begin
            elif begin != end:
                return b""
            end = after

    return b"" if start < 0 else raw[start:end]


def decode_delta(raw: bytes) -> DiscoveryRequest:
    """The DeltaDiscoveryRequest in `raw`."""
    found = _by_number(fields(raw))

    return DiscoveryRequest(
        type_url=_last_text(found[2]),
        nonce=_last_text(found[6]),
        names=frozenset(map(text, found[3])),
        unsubscribe=frozenset(map(text, found[4])),
        initial=dict(map(_held, found[5])) or _NOTHING,
        error=_error(found[7]),
        node=_node(found[1]),
    )


def _by_number(found: Iterable[tuple[int, _Value]]) -> defaultdict[int, list[_Value]]:
    grouped: defaultdict[int, list[_Value]] = defaultdict(list)
    for number, value in found:
        grouped[number].append(value)
    return grouped


def _last_text(values: list[_Value]) -> str:
    # A field that is not repeated may be there repeatedly; then its last value counts.
    return [text(value) for value in values][-1] if values else ""


def _node(values: list[_Value]) -> bytes | None:
    return [submessage(value) for value in values][-1] if values else None


def _error(values: list[_Value]) -> str | None:
    return [_status(submessage(value)) for value in values][-1] if values else None


def _held(entry: _Value) -> tuple[str, str]:
    """Name and version of a resource that the client has from before: an entry of a map."""
    parts = {n: text(value) for n, value in fields(submessage(entry)) if n in (1, 2)}
    return parts.get(1, ""), parts.get(2, "")


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
        # Nonces and errors are of one moment, nodes of one proxy: such bytes do not come again.
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
