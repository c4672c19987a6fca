"""Text to plain data that remembers its lines; the gate for input that nobody vouches for.

YAML (and JSON, which is YAML) is read from libyaml's events, not with PyYAML's constructors: no
recursion, so nesting cannot exhaust the stack; no tags beyond YAML's own scalars, so no code is
run; aliases are counted at the size they stand for, so they cannot explode; scalars become what
Kubernetes makes of them (no dates, no base 60). Keys are always text. Mappings are `LocatedDict`,
sequences `LocatedList`: ordinary dicts and lists with line numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 4 * 1024 * 1024
"""Kubernetes refuses objects above 1.5 MB; a file may hold several."""
MAX_DEPTH = 100
"""The deepest resource of Istio's API has about 20 levels, a patch of an EnvoyFilter 20 more."""
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_PARSER_DEPTH = "maximum nesting depth"
"""What PyYAML says since 6.0.4 when its own bound is exceeded."""
MAX_NODES = 250_000
_MAX_REPAIRS = 50

# The words of YAML 1.1, as the Go library that Kubernetes uses takes them.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
_INTEGER = re.compile(
    r"[-+]?(?:0[bB][01_]+|0[oO]?[0-7_]+|0[xX][0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
# An address that ends with `::` looks to libyaml like a key without value.
_FLOW_ADDRESS = re.compile(r"(?<=[\[,\s])([0-9A-Fa-f:.]*::)(?=\s*[,\]}])")
_TAG = "tag:yaml.org,2002:"


class LocatedDict(dict[str, Any]):
    """A mapping with the line where it starts and the line of each key."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class LocatedList(list[Any]):
    """A sequence with the line where it starts and the line of each item."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong with the text itself."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One document: its data, the line where it starts, and keys given twice."""

    data: Any
    line: int
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The documents of a text up to its first syntax error, and that error."""

    documents: tuple[RawDocument, ...]
    error: Mistake | None = None


class _Refused(Exception):
    """The text is not acceptable."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def load_documents(text: str | bytes) -> Loaded:
    """Every document in YAML or JSON; empty documents are left out."""
    documents: list[RawDocument] = []
    source = ""

    try:
        source = _decoded(text)
        for repair in range(_MAX_REPAIRS + 1):
            documents.clear()
            try:
                documents.extend(_documents(source))
                break
            except yaml.scanner.ScannerError as error:
                repaired = _with_quoted_address(source, error)
                if repaired is None or repair == _MAX_REPAIRS:
                    raise
                source = repaired
    except _Refused as refused:
        return Loaded(tuple(documents), Mistake(refused.line, refused.message))
    except yaml.YAMLError as error:
        return Loaded(tuple(documents), _mistake(error, source))

    return Loaded(tuple(documents))


def line_of(data: Any, path: Sequence[str | int]) -> int:
    """The line of the field at `path`, or of the closest field above it that exists; 0 if nothing
    is known.
    """
    line = getattr(data, "line", 0)
    for part in path:
        if isinstance(data, LocatedDict) and part in data.lines:
            line, data = data.lines[str(part)], data[str(part)]
        elif (
            isinstance(data, LocatedList)
            and isinstance(part, int)
            and part < len(data.lines)
        ):
            line, data = data.lines[part], data[part]
        else:
            break
    return int(line)


def _decoded(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        raise _Refused(
            0, f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB; split it"
        )
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise _Refused(
                line, f"not UTF-8: {error.reason} at byte {error.start}"
            ) from error
    return text


def _with_quoted_address(source: str, error: yaml.scanner.ScannerError) -> str | None:
    """`[2001:db8::]` is a string for Kubernetes, and an error for libyaml: quote it on the line of
    the error.
    """
    if error.problem_mark is None or "':'" not in str(error.problem):
        return None
    lines = source.split("\n")
    line = error.problem_mark.line
    if line >= len(lines):
        return None
    quoted = _FLOW_ADDRESS.sub(r"'\1'", lines[line])
    if quoted == lines[line]:
        return None
    return "\n".join([*lines[:line], quoted, *lines[line + 1 :]])


def _mistake(error: yaml.YAMLError, source: str) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    problem = (
        getattr(error, "problem", None)
        or getattr(error, "reason", None)
        or str(error).split("\n", maxsplit=1)[0]
    )
    context = getattr(error, "context", None)
    if _PARSER_DEPTH in problem:
        # The parser reads ahead, so its own, larger bound can be met before ours.
        mark = mark or getattr(error, "context_mark", None)
        return Mistake(mark.line + 1 if mark else 0, TOO_DEEP)
    message = f"not valid YAML: {context + ': ' if context else ''}{problem}"
    if mark is not None:
        return Mistake(mark.line + 1, message)

    position = getattr(error, "position", None)
    return Mistake(
        source.count("\n", 0, position) + 1 if isinstance(position, int) else 0, message
    )


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end has not come yet."""

    value: LocatedDict | LocatedList
    anchor: str | None
    nodes_before: int
    key: str | None = None
    key_line: int = 0
    merge: bool = False
    inherited: list[Any] = field(default_factory=list)


def _documents(source: str) -> Iterator[RawDocument]:
    builder: _Builder | None = None
    try:
        for event in yaml.parse(source, Loader=yaml.CSafeLoader):
            kind = type(event)
            if kind is yaml.DocumentStartEvent:
                builder = _Builder()
            elif kind is yaml.DocumentEndEvent and builder is not None:
                if builder.root is not None:
                    yield RawDocument(
                        builder.root, builder.root_line, tuple(builder.mistakes)
                    )
                builder = None
            elif builder is not None:
                builder.feed(event)
    except UnicodeEncodeError as error:
        raise _Refused(
            source[: error.start].count("\n") + 1, "not Unicode text"
        ) from error


class _Builder:
    """Makes one document from its events, with its own stack."""

    def __init__(self) -> None:
        self.root: Any = None
        self.root_line = 0
        self.mistakes: list[Mistake] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0

    def feed(self, event: Any) -> None:
        line = event.start_mark.line + 1
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._scalar(event, line)
        elif kind is yaml.MappingStartEvent:
            self._open(LocatedDict(line), event, line)
        elif kind is yaml.SequenceStartEvent:
            self._open(LocatedList(line), event, line)
        elif kind is yaml.AliasEvent:
            self._alias(event.anchor, line)
        else:
            self._close(line)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        # Nested aliases can stand for billions of values in a few lines.
        if self._nodes > MAX_NODES:
            raise _Refused(
                line, f"more than {MAX_NODES} values once its aliases are expanded"
            )

    def _scalar(self, event: Any, line: int) -> None:
        self._count(1, line)
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, LocatedDict) and top.key is None:
            plain = event.implicit[0]
            self._key(top, event.value, line, merge=plain and event.value == "<<")
            return
        value = _scalar_value(event, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._add(value, line)

    def _key(self, top: _Open, key: str, line: int, *, merge: bool) -> None:
        if key in top.value and not merge:
            assert isinstance(top.value, LocatedDict)
            self.mistakes.append(
                Mistake(
                    line,
                    f"key {key!r} is given twice (first on line {top.value.lines[key]})",
                )
            )
        top.key, top.key_line, top.merge = key, line, merge

    def _open(self, value: LocatedDict | LocatedList, event: Any, line: int) -> None:
        if event.tag is not None and event.tag not in (_TAG + "map", _TAG + "seq"):
            raise _Refused(line, f"tag {event.tag!r} is not allowed")
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, LocatedDict) and top.key is None:
            raise _Refused(line, "a key must be a text")
        if len(self._stack) >= MAX_DEPTH:
            raise _Refused(line, TOO_DEEP)
        self._stack.append(_Open(value, event.anchor, self._nodes))
        self._count(1, line)

    def _close(self, line: int) -> None:
        done = self._stack.pop()
        # Own keys win over inherited ones, wherever `<<` stands.
        for source in done.inherited:
            assert isinstance(done.value, LocatedDict)
            for key, value in source.items():
                if key not in done.value:
                    done.value[key] = value
                    done.value.lines[key] = done.value.line
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.value, self._nodes - done.nodes_before)
        self._add(done.value, done.value.line or line)

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise _Refused(
                line, f"alias *{anchor} stands for nothing, or for what contains it"
            )
        value, nodes = self._anchors[anchor]
        self._count(nodes, line)
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, LocatedDict) and top.key is None:
            if not isinstance(value, str):
                raise _Refused(line, "a key must be a text")
            self._key(top, value, line, merge=False)
            return
        self._add(value, line)

    def _add(self, value: Any, line: int) -> None:
        if not self._stack:
            self.root, self.root_line = value, line
            return

        top = self._stack[-1]
        if isinstance(top.value, LocatedList):
            top.value.append(value)
            top.value.lines.append(line)
        elif top.merge:
            self._inherit(top, value, line)
            top.key = None
        else:
            assert top.key is not None
            top.value[top.key] = value
            top.value.lines[top.key] = top.key_line
            top.key = None

    @staticmethod
    def _inherit(top: _Open, value: Any, line: int) -> None:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise _Refused(line, "'<<' must be a mapping, or a list of mappings")
        top.inherited.extend(sources)


def _scalar_value(event: Any, line: int) -> Any:
    text: str = event.value
    tag: str | None = event.tag
    if tag is None:
        return _plain(text) if event.implicit[0] else text
    if tag in ("!", _TAG + "str"):
        return text
    if tag in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
        return _plain(text)
    raise _Refused(line, f"tag {tag!r} is not allowed")


def _plain(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in _NULL:
        return None
    first = text[0]
    if first.isalpha():
        return True if text in _TRUE else False if text in _FALSE else text
    # No number that anybody means is longer, and Python needs quadratic time for digits.
    if first in "0123456789+-." and len(text) < 64:
        return _number(text)
    return text


def _number(text: str) -> float | str:
    """The number that the text is; the text itself if it is none."""
    if _INTEGER.match(text):
        return _integer(text)
    if _FLOAT.match(text):
        return float(text)

    special = _SPECIAL_FLOAT.match(text)
    if special is None:
        return text
    return float(f"{special.group(1) or ''}inf") if special.group(2) else float("nan")


def _integer(text: str) -> int | str:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    try:
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            return sign * int(digits, 8)
        return sign * int(digits, 0)
    except ValueError:
        return text
