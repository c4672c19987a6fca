"""Envoy's own rules for its messages: the protoc-gen-validate options in the protos, checked as Envoy checks them.

What violates one is refused by every proxy that gets it, so user-written Envoy configuration is checked here first.
Source: `validate/validate.proto` and Envoy's generated validators. Invariant: checking never raises, whatever a message
holds, and looks into every `google.protobuf.Any` whose type is known.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from google.protobuf import any_pb2, duration_pb2, json_format, symbol_database, timestamp_pb2
from google.protobuf.message import DecodeError
from validate import validate_pb2  # type: ignore[import-untyped]

_Check = Callable[[Any], str]
_NUMBERS = frozenset(
    {
        "float",
        "double",
        "int32",
        "int64",
        "uint32",
        "uint64",
        "sint32",
        "sint64",
        "fixed32",
        "fixed64",
        "sfixed32",
        "sfixed64",
    }
)
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_TYPED_STRUCTS = frozenset({"udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"})
_HEADER_NAME = re.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~`]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LOOSE = re.compile(r"[\x00\n\r]")
_HOSTNAME = re.compile(r"(?=.{1,253}\.?$)(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?")


def violation(message: Any) -> str:
    """The first rule that the message, or one within it, breaks: `field: what`. Empty if it breaks none."""
    return next(_violations(message, ""), "")


def _violations(message: Any, path: str) -> Iterator[str]:
    if message.DESCRIPTOR.full_name == "google.protobuf.Any":
        yield from _packed(message, path)
        return
    if message.DESCRIPTOR.full_name in _TYPED_STRUCTS:
        yield from _structured(message, path)
        return
    for field, check in _checks(message.DESCRIPTOR):
        found = check(message)
        if found:
            yield f"{path}{field}: {found}"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for key, part in _parts(field, value):
            yield from _violations(part, f"{path}{field.name}{key}.")


def _packed(packed: any_pb2.Any, path: str) -> Iterator[str]:
    try:
        inner = symbol_database.Default().GetSymbol(packed.TypeName())()
        inner.ParseFromString(packed.value)
    except KeyError:
        return
    except DecodeError:
        yield f"{path.rstrip('.')}: cannot be decoded as {packed.TypeName()}"
        return
    yield from _violations(inner, path)


def _structured(struct: Any, path: str) -> Iterator[str]:
    """The rules of a message that is given as JSON within a message."""
    try:
        inner = symbol_database.Default().GetSymbol(struct.type_url.rpartition("/")[2])()
    except KeyError:
        return
    try:
        json_format.ParseDict(json_format.MessageToDict(struct.value), inner)
    except (json_format.Error, ValueError, TypeError) as error:
        yield f"{path.rstrip('.')}: {' '.join(str(error).split())[:200]}"
        return
    yield from _violations(inner, path)


def _parts(field: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """The messages in a field, each with what tells it from the others."""
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is not None:
            yield from ((f"[{key}]", value[key]) for key in value)
    elif field.is_repeated:
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    else:
        yield "", value


@cache
def _checks(descriptor: Any) -> tuple[tuple[str, _Check], ...]:
    """The checks of a message's own fields and choices."""
    options = descriptor.GetOptions()
    if options.Extensions[validate_pb2.disabled] or options.Extensions[validate_pb2.ignored]:
        return ()
    made: list[tuple[str, _Check]] = [
        (group.name, _choice(group.name))
        for group in descriptor.oneofs
        if group.GetOptions().Extensions[validate_pb2.required]
    ]
    for field in descriptor.fields:
        if field.GetOptions().HasExtension(validate_pb2.rules):
            made.append((field.name, _field(field, field.GetOptions().Extensions[validate_pb2.rules])))
    return tuple(made)


def _choice(name: str) -> _Check:
    return lambda message: "" if message.WhichOneof(name) else "one of its fields is required"


def _field(field: Any, rules: Any) -> _Check:
    name, kind = field.name, rules.WhichOneof("type")
    is_required = rules.message.required or (kind in {"duration", "any", "timestamp"} and getattr(rules, kind).required)
    own = getattr(rules, kind) if kind is not None else None
    has_presence = field.has_presence
    # Within a choice, a field is only looked at when it is the one chosen.
    is_required = is_required and field.containing_oneof is None

    def check(message: Any) -> str:
        if has_presence and not message.HasField(name):
            return "is required" if is_required else ""
        return _value(field, kind, own, getattr(message, name)) if own is not None else ""

    return check


def _value(field: Any, kind: str, rules: Any, value: Any) -> str:
    if kind == "repeated":
        return _repeated(field, rules, value)
    if kind == "map":
        return _map(rules, value)
    if field.message_type is not None and field.message_type.full_name in _WRAPPERS:
        value = value.value
    return _scalar(field, kind, rules, value)


def _scalar(field: Any, kind: str, rules: Any, value: Any) -> str:
    if kind in _NUMBERS:
        return _range(rules, value)
    if kind in {"duration", "timestamp"}:
        return _range(rules, value, as_number=_seconds)
    check = _SCALARS.get(kind)
    return check(field, rules, value) if check is not None else ""


def _seconds(value: duration_pb2.Duration | timestamp_pb2.Timestamp) -> float:
    return value.seconds + value.nanos / 1e9


def _range(rules: Any, value: Any, as_number: Callable[[Any], float] = lambda number: number) -> str:
    number = as_number(value)
    given = {limit.name: bound for limit, bound in rules.ListFields()}
    if given.get("ignore_empty") and not number:
        return ""
    bounds = {name: as_number(bound) for name, bound in given.items() if name in {"const", "lt", "lte", "gt", "gte"}}
    holds = {
        "const": lambda bound: number == bound,
        "lt": lambda bound: number < bound,
        "lte": lambda bound: number <= bound,
        "gt": lambda bound: number > bound,
        "gte": lambda bound: number >= bound,
    }
    words = {"const": "be", "lt": "be below", "lte": "be at most", "gt": "be above", "gte": "be at least"}
    for name, bound in bounds.items():
        if not holds[name](bound):
            return f"must {words[name]} {bound:g}"
    return _membership(rules, number, [as_number(one) for one in getattr(rules, "in")])


def _membership(rules: Any, value: Any, allowed: list[Any]) -> str:
    if allowed and value not in allowed:
        return f"must be one of {allowed}"
    return f"must not be {value!r}" if value in list(rules.not_in) else ""


def _text(_field: Any, rules: Any, value: str) -> str:
    if rules.ignore_empty and not value:
        return ""
    size, octets = len(value), len(value.encode("utf-8", "surrogatepass"))
    if size < rules.min_len or octets < rules.min_bytes:
        return f"must have at least {rules.min_len or rules.min_bytes} characters"
    if (rules.HasField("max_len") and size > rules.max_len) or (
        rules.HasField("max_bytes") and octets > rules.max_bytes
    ):
        return f"must have at most {rules.max_len or rules.max_bytes} characters"
    if rules.HasField("const") and value != rules.const:
        return f"must be {rules.const!r}"
    if not value.startswith(rules.prefix) or not value.endswith(rules.suffix) or rules.contains not in value:
        return f"must begin with {rules.prefix!r}, contain {rules.contains!r} and end with {rules.suffix!r}"
    if rules.pattern and re.search(rules.pattern, value) is None:
        return f"must match {rules.pattern}"
    return _membership(rules, value, list(getattr(rules, "in"))) or _well_known(rules, value)


def _well_known(rules: Any, value: str) -> str:
    kind = rules.WhichOneof("well_known")
    if kind == "well_known_regex":
        pattern = _CONTROL if rules.strict or not rules.HasField("strict") else _LOOSE
        if rules.well_known_regex == validate_pb2.HTTP_HEADER_NAME and (
            pattern.search(value) or (pattern is _CONTROL and not _HEADER_NAME.fullmatch(value))
        ):
            return "is no name of a header"
        return "is no value of a header" if pattern.search(value) else ""
    if kind in {"ip", "ipv4", "ipv6"} and not _is_ip(value):
        return "is no IP address"
    if kind == "hostname" and not _HOSTNAME.fullmatch(value):
        return "is no host name"
    return ""


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _octets(_field: Any, rules: Any, value: bytes) -> str:
    if rules.ignore_empty and not value:
        return ""
    too_long = rules.HasField("max_len") and len(value) > rules.max_len
    return "has a length that is not allowed" if len(value) < rules.min_len or too_long else ""


def _enum(field: Any, rules: Any, value: int) -> str:
    if rules.defined_only and value not in field.enum_type.values_by_number:
        return f"{value} is not one of its values"
    if rules.HasField("const") and value != rules.const:
        return f"must be {rules.const}"
    return _membership(rules, value, list(getattr(rules, "in")))


def _truth(_field: Any, rules: Any, value: bool) -> str:
    return f"must be {rules.const}" if rules.HasField("const") and value != rules.const else ""


def _any(_field: Any, rules: Any, value: any_pb2.Any) -> str:
    return _membership(rules, value.type_url, list(getattr(rules, "in")))


_SCALARS: dict[str, Callable[[Any, Any, Any], str]] = {
    "string": _text,
    "bytes": _octets,
    "enum": _enum,
    "bool": _truth,
    "any": _any,
}


def _repeated(field: Any, rules: Any, values: Any) -> str:
    if rules.ignore_empty and not values:
        return ""
    if len(values) < rules.min_items or (rules.HasField("max_items") and len(values) > rules.max_items):
        return f"must have {rules.min_items} to {rules.max_items or 'any number of'} entries, not {len(values)}"
    if rules.unique and len({_frozen(value) for value in values}) != len(values):
        return "must not have an entry twice"
    kind = rules.items.WhichOneof("type")
    if kind is None:
        return ""
    found = (_value_of_item(field, kind, getattr(rules.items, kind), value) for value in values)
    return next((text for text in found if text), "")


def _value_of_item(field: Any, kind: str, rules: Any, value: Any) -> str:
    if field.message_type is not None and field.message_type.full_name in _WRAPPERS:
        value = value.value
    return _scalar(field, kind, rules, value)


def _frozen(value: Any) -> Any:
    return value.SerializeToString(deterministic=True) if hasattr(value, "DESCRIPTOR") else value


def _map(rules: Any, values: Any) -> str:
    if rules.ignore_empty and not values:
        return ""
    if len(values) < rules.min_pairs or (rules.HasField("max_pairs") and len(values) > rules.max_pairs):
        return "has a number of entries that is not allowed"
    kind = rules.keys.WhichOneof("type")
    if kind == "string":
        return next((text for key in values if (text := _text(None, rules.keys.string, key))), "")
    return ""
