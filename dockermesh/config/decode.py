"""Plain data to the dataclasses of `api/`: one decoder per class, built from its annotations on
first use.

A decoder never raises on bad data: it reports every finding to its cursor and goes on with the
default, so that all findings of a document are found in one go. Whether the result may be used,
`Findings` says.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dockermesh.config.fields import Quotable, json_name
from dockermesh.config.findings import UNKNOWN_FIELD, Cursor
from dockermesh.config.legacy import UPGRADES
from dockermesh.config.limits import CHECKS, parse_duration

T = TypeVar("T")
_Decode = Callable[[Any, Cursor], Any]
_REJECTED: Any = object()
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MOST_HINTS = 100
"""Suggestions are slow, and nobody reads more."""


def decode(cls: type[T], raw: Any, at: Cursor) -> T:
    """`raw` as `cls`; what is wrong is reported and replaced by its default."""
    # A class that is rejected as a whole still needs a value, for rules and for analysis.
    value: Any = _decoder_of_class(cls)(raw, at)
    return cls() if value is _REJECTED else value


def _decoder_of_class(cls: Any) -> _Decode:
    return _decoder(cls)


@cache
def _decoder(annotation: Any) -> _Decode:
    """The decoder of a type; it returns `_REJECTED` after reporting why."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _annotated_decoder(*get_args(annotation))
    if origin in (Union, types.UnionType):
        # None is said by leaving a field out; nothing is decoded to it.
        (inner,) = (a for a in get_args(annotation) if a is not types.NoneType)
        return _decoder(inner)
    if origin is tuple:
        return _list_decoder(get_args(annotation)[0])
    if origin is not None and issubclass(origin, Mapping):
        return _map_decoder(*get_args(annotation))

    return _plain_decoder(annotation)


def _annotated_decoder(inner: Any, *limits: Any) -> _Decode:
    decoder = _decoder(inner)
    plain = [limit for limit in limits if not isinstance(limit, Quotable)]
    return _limited(decoder if len(plain) == len(limits) else _unquoted(decoder), plain)


def _plain_decoder(annotation: Any) -> _Decode:
    if annotation is Any:
        return _anything
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if issubclass(annotation, StrEnum):
        return _enum_decoder(annotation)
    if is_dataclass(annotation):
        return _message_decoder(annotation)
    raise TypeError(f"no decoder for {annotation!r}")


def _limited(inner: _Decode, limits: list[Any]) -> _Decode:
    checks = [(CHECKS[type(limit)], limit) for limit in limits]

    def run(raw: Any, at: Cursor) -> Any:
        value = inner(raw, at)
        if value is not _REJECTED:
            for check, limit in checks:
                message = check(limit, value)
                if message:
                    at.error(message)
                    return _REJECTED
        return value

    return run


def _list_decoder(item: Any) -> _Decode:
    decode_item = _decoder(item)

    def run(raw: Any, at: Cursor) -> Any:
        # A single value is no list of one: protobuf does not take it so either.
        if not isinstance(raw, list):
            at.error(f"must be a list, not {describe(raw)}")
            return _REJECTED
        items = []
        for index, entry in enumerate(raw):
            if entry is None:
                (at / index).error("must not be null")
                continue
            value = decode_item(entry, at / index)
            # What was rejected keeps its place, so that later findings name the right index.
            items.append(_placeholder(item) if value is _REJECTED else value)
        return tuple(items)

    return run


def _map_decoder(key: Any, item: Any) -> _Decode:
    decode_key, decode_item = _key_decoder(key), _decoder(item)
    # In a free-form value null means something; elsewhere in a map protobuf refuses it.
    nullable = item is Any

    def run(raw: Any, at: Cursor) -> Any:
        if not isinstance(raw, dict):
            at.error(f"must be a mapping, not {describe(raw)}")
            return _REJECTED
        entries = {}
        for name, entry in raw.items():
            place = at / name
            if entry is None and not nullable:
                place.error("must not be null")
                continue
            name_value, value = decode_key(name, place), decode_item(entry, place)
            if name_value is not _REJECTED and value is not _REJECTED:
                entries[name_value] = value
        return entries

    return run


def _key_decoder(key: Any) -> _Decode:
    inner = _decoder(key)
    # In YAML and JSON all keys are text.
    return (
        _unquoted(inner)
        if get_origin(key) is Annotated and get_args(key)[0] is int
        else inner
    )


def _unquoted(inner: _Decode) -> _Decode:
    return lambda raw, at: inner(int(raw) if _is_integer_text(raw) else raw, at)


def _is_integer_text(raw: Any) -> bool:
    return (
        isinstance(raw, str)
        and len(raw) < 20
        and raw.lstrip("-").isdecimal()
        and raw.isascii()
    )


def _placeholder(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return (
        annotation()
        if annotation is not Any and get_origin(annotation) is None
        else None
    )


def _enum_decoder(enum: type[StrEnum]) -> _Decode:
    # By name alone, as in the schemas of Kubernetes, though protobuf's JSON takes numbers, too.
    names = {member.value: member for member in enum}

    def run(raw: Any, at: Cursor) -> Any:
        member = names.get(raw) if isinstance(raw, str) else None
        if member is None:
            at.error(f"{describe(raw)} is not one of {', '.join(names)}")
            return _REJECTED
        return member

    return run


def _message_decoder(cls: Any) -> _Decode:
    shape = _shape_of(cls)
    upgrade = UPGRADES.get(cls.__name__)

    def run(raw: Any, at: Cursor) -> Any:
        if not isinstance(raw, dict):
            at.error(f"must be a mapping, not {describe(raw)}")
            return _REJECTED

        if upgrade is not None:
            raw = upgrade(raw, at)
        values: dict[str, Any] = {}
        for name, entry in raw.items():
            known = shape.known.get(name)
            if name in shape.ignored:
                (at / name).warn("is a field of Istio that has no effect in dockermesh")
            elif known is None:
                _note_unknown(shape, name, at)
            # null is as absent, for Kubernetes as for protobuf.
            elif entry is not None:
                if known in values:
                    (at / name).error(
                        f"is given twice, as {shape.names[known]} and as {known}"
                    )
                values[known] = _decoder(shape.types[known])(entry, at / name)

        _check_given(shape, values, at)
        return cls(
            **{name: value for name, value in values.items() if value is not _REJECTED}
        )

    return run


def _note_unknown(shape: _Shape, name: Any, at: Cursor) -> None:
    hints = shape.names.values() if len(at.findings.found) < _MOST_HINTS else ()
    (at / name).error(unknown_field(name, hints), UNKNOWN_FIELD)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a class: its attributes by every name that YAML may have for them, and by
    attribute the types, the names in YAML, what must be there and what excludes each other.
    """

    known: Mapping[str, str]
    types: Mapping[str, Any]
    names: Mapping[str, str]
    required: tuple[str, ...]
    oneofs: tuple[tuple[str, ...], ...]
    ignored: frozenset[str]


def _shape_of(cls: Any) -> _Shape:
    names = {f.name: json_name(f) for f in fields(cls)}
    return _Shape(
        # protobuf's JSON takes both spellings.
        known={
            name: attribute
            for attribute, json in names.items()
            for name in (json, attribute)
        },
        types=get_type_hints(cls, include_extras=True),
        names=names,
        required=tuple(f.name for f in fields(cls) if f.metadata.get("required")),
        oneofs=tuple(getattr(cls, "ONEOFS", ())),
        ignored=getattr(cls, "IGNORED", frozenset()),
    )


def _check_given(shape: _Shape, values: Mapping[str, Any], at: Cursor) -> None:
    """What must be there is, and of what excludes each other at most one."""
    for attribute in shape.required:
        if attribute not in values:
            (at / shape.names[attribute]).missing()
    for group in shape.oneofs:
        given = [shape.names[attribute] for attribute in group if attribute in values]
        if len(given) > 1:
            (at / given[1]).error(f"only one of {', '.join(given)} may be set")


def unknown_field(name: Any, known: Any) -> str:
    """The message about a field that does not exist, with the most similar one that does."""
    from difflib import get_close_matches

    close = get_close_matches(str(name), list(known), n=1, cutoff=0.7)
    return f"unknown field {name!r}" + (
        f"; did you mean {close[0]!r}?" if close else ""
    )


def describe(raw: Any) -> str:
    """A value in a message: short, and with its type where that is the point."""
    if raw is None:
        return "null"
    if isinstance(raw, dict):
        return "a mapping"
    if isinstance(raw, list):
        return "a list"
    if isinstance(raw, bool):
        return "true" if raw else "false"
    text = repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."


NOT_UNICODE = "must be valid Unicode: it has half of a surrogate pair"


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: JSON's escapes can make one that cannot."""
    return text.isascii() or _SURROGATE.search(text) is None


def _anything(raw: Any, at: Cursor) -> Any:
    """Free-form data: only what no encoder takes is refused."""
    pending = [raw]
    while pending:
        part = pending.pop()
        if isinstance(part, str) and not is_unicode(part):
            at.error(NOT_UNICODE)
            return _REJECTED
        if isinstance(part, dict):
            pending.extend(part)
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return raw


def _text(raw: Any, at: Cursor) -> Any:
    if isinstance(raw, str):
        if not is_unicode(raw):
            at.error(NOT_UNICODE)
            return _REJECTED
        return raw
    at.error(f"must be a text, not {describe(raw)}; quote it")
    return _REJECTED


def _integer(raw: Any, at: Cursor) -> Any:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    # JSON does not tell 3.0 from 3, so protobuf takes both as an integer.
    if isinstance(raw, float) and math.isfinite(raw) and raw == int(raw):
        return int(raw)
    at.error(f"must be an integer, not {describe(raw)}")
    return _REJECTED


def _number(raw: Any, at: Cursor) -> Any:
    # In Python, true is a number.
    if (
        isinstance(raw, int | float)
        and not isinstance(raw, bool)
        and math.isfinite(raw)
    ):
        return float(raw)
    at.error(f"must be a number, not {describe(raw)}")
    return _REJECTED


def _boolean(raw: Any, at: Cursor) -> Any:
    if isinstance(raw, bool):
        return raw
    at.error(f"must be true or false, not {describe(raw)}")
    return _REJECTED


def _duration(raw: Any, at: Cursor) -> Any:
    if isinstance(raw, str):
        value = parse_duration(raw)
        if isinstance(value, timedelta):
            return value
        at.error(value)
        return _REJECTED
    at.error(f"must be a duration such as 1.5s or 2m30s, not {describe(raw)}")
    return _REJECTED


_SCALARS: dict[Any, _Decode] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _boolean,
    timedelta: _duration,
}
