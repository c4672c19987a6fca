"""The words of CEL, the Common Expression Language, each with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum, auto

_ESCAPE = r"""(?:\\[abfnrtv"'\\?`]|\\[xX][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}
              |\\U[0-9a-fA-F]{8}|\\[0-3][0-7]{2})"""
_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\r\n\f]+|//[^\n]*)
  | (?P<raw>[bB]?[rR](?:\"\"\".*?\"\"\"|'''.*?'''|"[^"\r\n]*"|'[^'\r\n]*'))
  | (?P<string>[bB]?(?:\"\"\"(?:[^\\]|{_ESCAPE})*?\"\"\"
      |'''(?:[^\\]|{_ESCAPE})*?'''
      |"(?:[^"\\\r\n]|{_ESCAPE})*"|'(?:[^'\\\r\n]|{_ESCAPE})*'))
  | (?P<number>0x[0-9a-fA-F]+[uU]?|[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?
      |[0-9]+[eE][+-]?[0-9]+|[0-9]+[uU]?)
  | (?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
  | (?P<operator>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,(){{}}\[\]])
    """,
    re.VERBOSE | re.DOTALL,
)
_ONE_ESCAPE = re.compile(_ESCAPE, re.VERBOSE)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Wrong(ValueError):
    """What is wrong with an expression, and where: the offset of a character."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


class Word(StrEnum):
    """The sorts of words."""

    RAW = auto()
    STRING = auto()
    NUMBER = auto()
    NAME = auto()
    OPERATOR = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it is written, and the offset where it begins."""

    word: Word
    text: str
    at: int

    @property
    def shown(self) -> str:
        """The word for a message."""
        return "the end" if self.word is Word.END else repr(self.text[:20])

    @property
    def is_text(self) -> bool:
        """Whether it is the text of a string or of bytes."""
        return self.word in (Word.RAW, Word.STRING)


def tokens(text: str) -> list[Token]:
    """The words of an expression and its end. Raises Wrong."""
    found = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Wrong(f"unexpected {text[at : at + 10]!r}", at)
        if match.lastgroup != "space":
            found.append(Token(Word(str(match.lastgroup)), match[0], at))
        at = match.end()

    return [*found, Token(Word.END, "", len(text))]


def value_of(token: Token) -> str:
    """What a text stands for. Raises Wrong for a character that there is not."""
    is_bytes = token.text[0] in "bB"
    body = token.text.lstrip("bBrR")
    quotes = 3 if body[:3] in ('"""', "'''") else 1
    body = body[quotes:-quotes]
    if token.word is Word.RAW:
        return body

    def character(match: re.Match[str]) -> str:
        kind, code = match[0][1], match[0][2:]
        if not code:
            return _SHORT.get(kind, kind)
        number = int(code, 16) if kind in "xXuU" else int(kind + code, 8)
        is_one = number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF
        if not is_one or (is_bytes and kind in "uU"):
            raise Wrong(f"{match[0]} is no character", token.at)
        return chr(number)

    return _ONE_ESCAPE.sub(character, body)
