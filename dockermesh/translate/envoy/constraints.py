"""Envoy's own rules for its messages: the protoc-gen-validate options in the protos, checked as
Envoy checks them.

What violates one is refused by every proxy that gets it, so user-written Envoy configuration is
checked here first. Source: `validate/validate.proto` and Envoy's generated validators. Invariant:
checking never raises, whatever a message holds, and looks into every `google.protobuf.Any` whose
type is known. Regular expressions are not in the protos' rules; Envoy compiles them, so they are
compiled here, too.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from google.protobuf import (
    any_pb2,
    duration_pb2,
    json_format,
    symbol_database,
    timestamp_pb2,
)
from google.protobuf.message import DecodeError
from validate import validate_pb2  # type: ignore[import-untyped]

from dockermesh.config.rules.path_template import check_template
from dockermesh.config.rules.regex import MAX_PROGRAM_SIZE, check_program

_Check = Callable[[Any], str]
_Shape = Callable[[Any], Iterable[tuple[str, Any]]]
_Special = Callable[[Any], str]
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
    for name in (
        "Double",
        "Float",
        "Int64",
        "UInt64",
        "Int32",
        "UInt32",
        "Bool",
        "String",
        "Bytes",
    )
)
_VALUES = _WRAPPERS | {"google.protobuf.Timestamp", "google.protobuf.Empty"}
LONGEST_S = 2**63 // 10**9 - 1
"""The longest duration in seconds: Envoy counts in nanoseconds, in 64 bits."""
_TYPED_STRUCTS = frozenset({"udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"})
# The pseudo headers of HTTP/2 begin with a colon.
_HEADER_NAME = re.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~`]+")
# All but the tab, which HTTP allows in values.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What stays forbidden under `strict: false`: ends of lines, and NUL.
_LOOSE = re.compile(r"[\x00\n\r]")
_HOSTNAME = re.compile(
    r"(?=.{1,253}\.?$)(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?"
)


def violation(message: Any) -> str:
    """The first rule that the message, or one within it, breaks: `field: what`. Empty if it breaks
    none.
    """
    special, checks, shapes = _plan(message.DESCRIPTOR)
    if special is not None:
        return special(message)

    for name, check in checks:
        found = check(message)
        if found:
            return f"{name}: {found}"

    # What is not set holds nothing; that it must be set is a check of the message around it.
    for field, value in message.ListFields():
        shape = shapes.get(field.name)
        if shape is not None:
            for key, part in shape(value):
                found = _known(part)
                if found:
                    return f"{field.name}{key}.{found}"

    return ""


def _known(part: Any) -> str:
    """What is wrong with a part of a message. Most parts are the same in many: it is found out
    once.
    """
    # Only a key: maps in another order cost a second check, and change no answer.
    body = part.SerializeToString()
    # Large parts are seldom alike, and their own parts are remembered all the same.
    if len(body) > _LARGEST_KNOWN:
        return violation(part)

    key = (part.DESCRIPTOR.full_name, body)
    found = _KNOWN.get(key)

    if found is None:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        found = _KNOWN[key] = violation(part)

    return found


_KNOWN: dict[tuple[str, bytes], str] = {}
_MOST_KNOWN = 4096
_LARGEST_KNOWN = 1024


def _packed(packed: any_pb2.Any) -> str:
    try:
        # A type that these protos lack is not judged: Envoy may have it.
        inner = symbol_database.Default().GetSymbol(packed.TypeName())()
        inner.ParseFromString(packed.value)
    except KeyError:
        return ""
    except DecodeError:
        return f"value: cannot be decoded as {packed.TypeName()}"
    return violation(inner)


def _duration(value: duration_pb2.Duration) -> str:
    """Envoy takes no negative duration anywhere, and none that it cannot count in nanoseconds."""
    is_countable = 0 <= value.seconds <= LONGEST_S and 0 <= value.nanos < 10**9
    return "" if is_countable else f"seconds: must be between 0 and {LONGEST_S}"


def _structured(struct: Any) -> str:
    """The rules of a message that is given as JSON within a message."""
    try:
        inner = symbol_database.Default().GetSymbol(
            struct.type_url.rpartition("/")[2]
        )()
    except KeyError:
        return ""
    try:
        # Envoy, too, reads the structure as the JSON of that message.
        json_format.ParseDict(json_format.MessageToDict(struct.value), inner)
    except (json_format.Error, ValueError, TypeError) as error:
        return f"value: {' '.join(str(error).split())[:200]}"
    return violation(inner)


def _regex(matcher: Any) -> str:
    """An expression must compile, and to a program that is not larger than the message or else the
    proxy's bootstrap says.
    """
    if not matcher.regex:
        return "regex: must have at least 1 characters"
    own = matcher.google_re2
    largest = (
        own.max_program_size.value
        if own.HasField("max_program_size")
        else MAX_PROGRAM_SIZE
    )
    return check_program(matcher.regex, largest)


def _policy_template(permission: Any) -> str:
    """The path template of a rule of RBAC, at which Envoy 1.40 crashes if it cannot read it. In a
    route, it only refuses it.
    """
    packed = permission.uri_template.typed_config
    template = uri_template_match_pb2.UriTemplateMatchConfig()
    if permission.WhichOneof("rule") != "uri_template" or not packed.Is(
        template.DESCRIPTOR
    ):
        return ""

    try:
        template.ParseFromString(packed.value)
    except DecodeError:
        return "cannot be decoded"

    return check_template(template.path_template)


@cache
def _plan(
    descriptor: Any,
) -> tuple[_Special | None, tuple[tuple[str, _Check], ...], dict[str, _Shape]]:
    """How messages of a type are checked: by what it packs, or by its own rules and those of its
    parts.
    """
    if descriptor.full_name == "google.protobuf.Any":
        return _packed, (), {}
    if descriptor.full_name == "google.protobuf.Duration":
        return _duration, (), {}
    if descriptor.full_name in _TYPED_STRUCTS:
        return _structured, (), {}
    if descriptor.full_name == "envoy.type.matcher.v3.RegexMatcher":
        return _regex, (), {}

    shapes = {
        f.name: shape for f in descriptor.fields if (shape := _shape(f)) is not None
    }
    return None, _checks(descriptor), shapes


def _shape(field: Any) -> _Shape | None:
    """How the messages in a field are got at, each with what tells it from the others; None if
    there are none.
    """
    if field.message_type is None or field.message_type.full_name in _VALUES:
        return None
    # To protobuf a map is a repeated message, so it must be told apart first.
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is None:
            return None
        return lambda value: [(f"[{key}]", value[key]) for key in value]

    if field.is_repeated:
        return lambda value: [(f"[{index}]", part) for index, part in enumerate(value)]
    return lambda value: (("", value),)


def _checks(descriptor: Any) -> tuple[tuple[str, _Check], ...]:
    """The checks of a message's own fields and choices."""
    options = descriptor.GetOptions()
    if (
        options.Extensions[validate_pb2.disabled]
        or options.Extensions[validate_pb2.ignored]
    ):
        return ()

    # A choice that must be made is a rule of the group, which no field of it has.
    made: list[tuple[str, _Check]] = [
        (group.name, _choice(group.name))
        for group in descriptor.oneofs
        if group.GetOptions().Extensions[validate_pb2.required]
    ]
    if descriptor.full_name == "envoy.config.rbac.v3.Permission":
        made.append(("uri_template", _policy_template))

    for field in descriptor.fields:
        if field.GetOptions().HasExtension(validate_pb2.rules):
            made.append(
                (
                    field.name,
                    _field(field, field.GetOptions().Extensions[validate_pb2.rules]),
                )
            )

    return tuple(made)


def _choice(name: str) -> _Check:
    return lambda message: (
        "" if message.WhichOneof(name) else "one of its fields is required"
    )


def _field(field: Any, rules: Any) -> _Check:
    name, kind = field.name, rules.WhichOneof("type")
    is_required = rules.message.required or (
        kind in {"duration", "any", "timestamp"} and getattr(rules, kind).required
    )
    own = getattr(rules, kind) if kind is not None else None
    has_presence = field.has_presence
    # Within a choice, a field is only looked at when it is the one chosen.
    is_required = is_required and field.containing_oneof is None

    def check(message: Any) -> str:
        # Unset, a wrapper or a message breaks no rule but `required`.
        if has_presence and not message.HasField(name):
            return "is required" if is_required else ""
        return (
            _value(field, kind, own, getattr(message, name)) if own is not None else ""
        )

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
        return _range(rules, _seconds(value), as_number=_seconds)
    check = _SCALARS.get(kind)
    return check(field, rules, value) if check is not None else ""


def _seconds(value: duration_pb2.Duration | timestamp_pb2.Timestamp) -> float:
    return value.seconds + value.nanos / 1e9


_HOLDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "const": (operator.eq, "be"),
    "lt": (operator.lt, "be below"),
    "lte": (operator.le, "be at most"),
    "gt": (operator.gt, "be above"),
    "gte": (operator.ge, "be at least"),
}


def _range(
    rules: Any, number: Any, as_number: Callable[[Any], float] = lambda number: number
) -> str:
    for limit, bound in rules.ListFields():
        # `in` and `not_in` are among the rules, too; they come last.
        held = _HOLDS.get(limit.name)
        if held is not None and not held[0](number, as_number(bound)):
            if (
                rules.DESCRIPTOR.fields_by_name.get("ignore_empty") is not None
                and rules.ignore_empty
                and not number
            ):
                return ""

            return f"must {held[1]} {as_number(bound):g}"

    return _membership(rules, number, [as_number(one) for one in getattr(rules, "in")])


def _membership(rules: Any, value: Any, allowed: list[Any]) -> str:
    if allowed and value not in allowed:
        return f"must be one of {allowed}"
    return f"must not be {value!r}" if value in list(rules.not_in) else ""


def _text(_field: Any, rules: Any, value: str) -> str:
    if rules.ignore_empty and not value:
        return ""

    return (
        _length(rules, value)
        or _parts(rules, value)
        or _membership(rules, value, list(getattr(rules, "in")))
        or _well_known(rules, value)
    )


def _length(rules: Any, value: str) -> str:
    # protoc-gen-validate counts characters in `len` rules and octets in `bytes` rules.
    size, octets = len(value), len(value.encode("utf-8", "surrogatepass"))
    if size < rules.min_len or octets < rules.min_bytes:
        return f"must have at least {rules.min_len or rules.min_bytes} characters"

    is_long = rules.HasField("max_len") and size > rules.max_len
    is_large = rules.HasField("max_bytes") and octets > rules.max_bytes
    if is_long or is_large:
        return f"must have at most {rules.max_len or rules.max_bytes} characters"
    return ""


def _parts(rules: Any, value: str) -> str:
    if rules.HasField("const") and value != rules.const:
        return f"must be {rules.const!r}"

    has_ends = value.startswith(rules.prefix) and value.endswith(rules.suffix)
    if not has_ends or rules.contains not in value:
        return (
            f"must begin with {rules.prefix!r}, contain {rules.contains!r} and end with"
            f" {rules.suffix!r}"
        )
    if rules.pattern and re.search(rules.pattern, value) is None:
        return f"must match {rules.pattern}"
    return ""


def _well_known(rules: Any, value: str) -> str:
    kind = rules.WhichOneof("well_known")
    if kind == "well_known_regex":
        return _header(rules, value)
    if kind in {"ip", "ipv4", "ipv6"} and not _is_ip(value):
        return "is no IP address"
    if kind == "hostname" and not _HOSTNAME.fullmatch(value):
        return "is no host name"
    return ""


def _header(rules: Any, value: str) -> str:
    is_strict = rules.strict or not rules.HasField("strict")
    is_name = rules.well_known_regex == validate_pb2.HTTP_HEADER_NAME

    if (_CONTROL if is_strict else _LOOSE).search(value):
        return "is no name of a header" if is_name else "is no value of a header"
    if is_strict and is_name and not _HEADER_NAME.fullmatch(value):
        return "is no name of a header"
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
    return (
        "has a length that is not allowed"
        if len(value) < rules.min_len or too_long
        else ""
    )


def _enum(field: Any, rules: Any, value: int) -> str:
    # An enum of proto3 holds any number, whether it has a name or not.
    if rules.defined_only and value not in field.enum_type.values_by_number:
        return f"{value} is not one of its values"
    if rules.HasField("const") and value != rules.const:
        return f"must be {rules.const}"
    return _membership(rules, value, list(getattr(rules, "in")))


def _truth(_field: Any, rules: Any, value: bool) -> str:
    return (
        f"must be {rules.const}"
        if rules.HasField("const") and value != rules.const
        else ""
    )


def _any(_field: Any, rules: Any, value: Any) -> str:
    # Envoy's API has such a rule on a field of another type, too (`config_discovery`).
    if not isinstance(value, any_pb2.Any):
        return ""
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
    wrong = _count(rules, len(values))
    if wrong:
        return wrong

    if rules.unique and len(set(map(_frozen, values))) != len(values):
        return "must not have an entry twice"
    kind = rules.items.WhichOneof("type")
    if kind is None:
        return ""

    found = (
        _value_of_item(field, kind, getattr(rules.items, kind), value)
        for value in values
    )
    return next((text for text in found if text), "")


def _count(rules: Any, count: int) -> str:
    too_many = rules.HasField("max_items") and count > rules.max_items
    if count >= rules.min_items and not too_many:
        return ""
    most = rules.max_items or "any number of"
    return f"must have {rules.min_items} to {most} entries, not {count}"


def _value_of_item(field: Any, kind: str, rules: Any, value: Any) -> str:
    if field.message_type is not None and field.message_type.full_name in _WRAPPERS:
        value = value.value
    return _scalar(field, kind, rules, value)


def _frozen(value: Any) -> Any:
    return (
        # Messages have no hash; equal ones have the same bytes once maps are sorted.
        value.SerializeToString(deterministic=True)
        if hasattr(value, "DESCRIPTOR")
        else value
    )


def _map(rules: Any, values: Any) -> str:
    if rules.ignore_empty and not values:
        return ""
    if len(values) < rules.min_pairs or (
        rules.HasField("max_pairs") and len(values) > rules.max_pairs
    ):
        return "has a number of entries that is not allowed"
    kind = rules.keys.WhichOneof("type")
    if kind == "string":
        return next(
            (text for key in values if (text := _text(None, rules.keys.string, key))),
            "",
        )
    return ""
