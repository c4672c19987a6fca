"""Mixer's expression language (CEXL) as a tree.

Source: Istio 1.0, *Expression Language*: Go's syntax and its precedence, in which `|` (the first
that is there) binds tighter than a comparison.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>[0-9]+(?:\.[0-9]+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
    |(?P<sign>\|\||&&|[=!<>]=|[|<>+()\[\],.])
    )""",
    re.VERBOSE,
)
_PRECEDENCE = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), 3),
    **dict.fromkeys(("|", "+"), 4),
}
_METHODS = frozenset({"matches", "startsWith", "endsWith"})
_DEEPEST = 50
_LONGEST = 10_000


class Inexpressible(Exception):
    """Why something cannot be said in today's resources."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """What Mixer knows of a request, `request.path`; of a map one entry, `source.labels["app"]`."""

    name: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.name}[{json.dumps(self.key)}]" if self.key else self.name


@dataclass(frozen=True, slots=True)
class Constant:
    """A text, a number or a truth value."""

    value: str | float | bool


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function with its arguments; a method has what it is called on first."""

    function: str
    arguments: tuple[Expression, ...]


Expression = Attribute | Constant | Call


def parse(text: str) -> Expression:
    """The tree of an expression. Raises Inexpressible where it is none."""
    if len(text) > _LONGEST:
        raise Inexpressible(f"an expression is longer than {_LONGEST} characters")
    parser = _Parser(list(_tokens(text)), text)
    found = parser.expression(0, 1)
    parser.end()
    return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise Inexpressible(f"{text!r} cannot be read from column {position + 1}")
        position = found.end()
        yield str(found.lastgroup), found[str(found.lastgroup)]


class _Parser:
    """Reads by precedence, from the left."""

    def __init__(self, tokens: list[tuple[str, str]], text: str) -> None:
        self._tokens = tokens
        self._text = text
        self._next = 0

    def expression(self, depth: int, lowest: int) -> Expression:
        if depth > _DEEPEST:
            raise Inexpressible(f"an expression has more than {_DEEPEST} levels")
        left = self._operand(depth)
        while (binds := _PRECEDENCE.get(self._sign(), 0)) >= lowest:
            operator = self._take()[1]
            left = Call(operator, (left, self.expression(depth + 1, binds + 1)))
        return left

    def end(self) -> None:
        if self._next < len(self._tokens):
            raise self._wrong()

    def _operand(self, depth: int) -> Expression:
        kind, word = self._take()
        if kind == "text":
            return self._methods(Constant(_unquoted(word)), depth)
        if kind == "number":
            return Constant(float(word) if "." in word else int(word))
        if kind == "name":
            return self._named(word, depth)
        if word == "(":
            inner = self.expression(depth + 1, 1)
            self._expect(")")
            return self._methods(inner, depth)
        self._next -= 1
        raise self._wrong()

    def _named(self, word: str, depth: int) -> Expression:
        if word in ("true", "false"):
            return Constant(word == "true")
        if self._sign() == "(":
            subject, _, method = word.rpartition(".")
            arguments = self._arguments(depth)
            if not subject:
                return Call(method, arguments)
            if method not in _METHODS:
                raise self._wrong()
            return Call(method, (Attribute(subject), *arguments))
        if self._sign() != "[":
            return Attribute(word)
        self._take()
        kind, key = self._take()
        if kind != "text":
            raise self._wrong()
        self._expect("]")
        return self._methods(Attribute(word, _unquoted(key)), depth)

    def _methods(self, subject: Expression, depth: int) -> Expression:
        """What is called on a text, on an entry of a map, or on what stands in brackets."""
        while self._sign() == ".":
            self._take()
            kind, method = self._take()
            if kind != "name" or method not in _METHODS:
                raise self._wrong()
            subject = Call(method, (subject, *self._arguments(depth)))
        return subject

    def _arguments(self, depth: int) -> tuple[Expression, ...]:
        self._expect("(")
        found: list[Expression] = []
        while self._sign() != ")":
            if found:
                self._expect(",")
            found.append(self.expression(depth + 1, 1))
        self._take()
        return tuple(found)

    def _sign(self) -> str:
        kind, word = (
            self._tokens[self._next] if self._next < len(self._tokens) else ("", "")
        )
        return word if kind == "sign" else ""

    def _take(self) -> tuple[str, str]:
        if self._next >= len(self._tokens):
            raise self._wrong()
        self._next += 1
        return self._tokens[self._next - 1]

    def _expect(self, sign: str) -> None:
        if self._sign() != sign:
            raise self._wrong()
        self._next += 1

    def _wrong(self) -> Inexpressible:
        word = (
            repr(self._tokens[self._next][1])
            if self._next < len(self._tokens)
            else "its end"
        )
        return Inexpressible(f"{self._text!r} cannot be read at {word}")


def _unquoted(word: str) -> str:
    if word.startswith("`"):
        return word[1:-1]
    try:
        return str(json.loads(word))
    except ValueError:
        raise Inexpressible(f"{word} has an escape that is not JSON's") from None


def operands(expression: Expression) -> tuple[Expression, ...]:
    """What `a | b | c` chooses from, in its order."""
    if isinstance(expression, Call) and expression.function == "|":
        return tuple(each for side in expression.arguments for each in operands(side))
    return (expression,)
