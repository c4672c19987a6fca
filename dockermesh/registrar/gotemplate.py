r"""The subset of Go's text/template that registrator's `-tags` is used with, over one object of
`docker inspect`.

`{{.Config.Hostname}}`, `{{index .Config.Labels "x"}}`, pipes, and registrator's functions toUpper,
toLower, replace, split, splitIndex, join, strSlice, sIndex, mIndex. Invariant: no code is run and
nothing but the object is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dockermesh.errors import InputError

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|\||\(|\)|[^\s|()"`]+)')


def render(template: str, data: Mapping[str, Any]) -> str:
    """The text of `template` for `data`.

    Raises InputError on anything outside the subset.
    """
    return _ACTION.sub(lambda m: _text(_Evaluator(m[1], data).run()), template)


def _text(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(_text(v) for v in value) + "]"
    return str(value)


class _Evaluator:
    """One action. Grammar: pipeline = command {"|" command}; command = operand {operand}."""

    def __init__(self, source: str, data: Mapping[str, Any]) -> None:
        self._source = source
        self._data = data
        self._tokens = _TOKEN.findall(source)
        self._at = 0

    def run(self) -> Any:
        value = self._pipeline()
        if self._at < len(self._tokens):
            raise self._error(self._tokens[self._at])
        return value

    def _pipeline(self) -> Any:
        value = self._command(())
        while self._peek() == "|":
            self._at += 1
            value = self._command((value,))
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _command(self, piped: tuple[Any, ...]) -> Any:
        word = self._peek()
        if word in _FUNCTIONS:
            self._at += 1
            arguments = []
            while self._peek() not in ("", "|", ")"):
                arguments.append(self._operand())
            try:
                return _FUNCTIONS[word](*arguments, *piped)
            except (TypeError, ValueError, IndexError, AttributeError):
                raise self._error(word) from None
        if piped:
            raise self._error(word)
        return self._operand()

    def _operand(self) -> Any:
        word = self._peek()
        self._at += 1
        if word == "(":
            value = self._pipeline()
            if self._peek() != ")":
                raise self._error(self._peek())
            self._at += 1
            return value

        if word.startswith('"'):
            return re.sub(
                r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), word[1:-1]
            )
        if word.startswith("`"):
            return word[1:-1]
        if word.startswith("."):
            return _field(self._data, [p for p in word.split(".") if p])
        if re.fullmatch(r"-?\d+", word):
            return int(word)
        raise self._error(word)

    def _error(self, word: str) -> InputError:
        return InputError(
            f"cannot evaluate {word or 'the end'!r} in the tag template {{{{{self._source}}}}}",
            where="-tags",
            fix="use fields, index, and " + ", ".join(sorted(_FUNCTIONS)),
        )


def _field(value: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(value, Mapping):
            return None
        # registrator's templates name Go's fields (`ID`, `IPAddress`), inspect's JSON writes some
        # differently (`Id`).
        folded = {k.lower(): k for k in value}
        value = value.get(name, value.get(folded.get(name.lower(), name)))
    return value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif isinstance(value, list):
            value = value[key]
        else:
            return ""
    return value


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "index": _index,
    "sIndex": lambda i, s: s[i],
    "mIndex": lambda k, m: (m or {}).get(k, ""),
    "strSlice": lambda *parts: list(parts),
    "toUpper": lambda s: s.upper(),
    "toLower": lambda s: s.lower(),
    "replace": lambda n, old, new, s: s.replace(old, new, n),
    "split": lambda sep, s: s.split(sep),
    "splitIndex": lambda i, sep, s: s.split(sep)[i],
    "join": lambda sep, parts: sep.join(parts),
}
