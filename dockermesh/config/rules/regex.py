"""Whether RE2 accepts a regular expression, found without running it.

RE2 has no look-around, back-references, possessive or atomic groups, and limits repetition to
1,000; Envoy rejects a whole configuration that has such an expression. The grammar is that of Go's
`regexp/syntax` with Perl's classes, which is what Istio checks with. The parser keeps its own
stack, so nesting costs no recursion.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

MAX_LENGTH = 1024
"""Istio's limit, by which it keeps programs below the size that Envoy accepts."""
MAX_REPEAT = 1000
_MAX_DEPTH = 1000
_REPEAT = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")
_GROUP_NAME = re.compile(r"\?P?<([A-Za-z0-9_]+)>")
_FLAGS = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_POSIX = re.compile(r"\[:\^?([a-z]*):\]")
_POSIX_NAMES = frozenset(
    [
        "alnum",
        "alpha",
        "ascii",
        "blank",
        "cntrl",
        "digit",
        "graph",
        "lower",
        "print",
        "punct",
        "space",
        "upper",
        "word",
        "xdigit",
    ]
)
_UNICODE = re.compile(r"[pP](?:([A-Z])|\{\^?([A-Za-z_]+)\})")
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}")
_HEX = re.compile(r"x(?:[0-9A-Fa-f]{2}|\{([0-9A-Fa-f]{1,8})\})")


class _Rejected(ValueError):
    pass


@dataclass(slots=True)
class _Group:
    """An open group: whether something is there to repeat, how often it is repeated, and the most
    in it.
    """

    has_item: bool = False
    last_weight: int = 1
    weight: int = 1
    repeated: bool = False


def check_regex(expression: str) -> str:
    """What RE2 would say against the expression, or nothing."""
    if not expression:
        return "regex must not be empty"
    if len(expression) > MAX_LENGTH:
        return f"regex is too large, at most {MAX_LENGTH} characters are allowed"
    return check_syntax(expression)


def check_syntax(expression: str) -> str:
    """As `check_regex`, for an expression of any length."""
    try:
        _Parser(expression).run()
    except _Rejected as rejected:
        return f"regex is not accepted by RE2: {rejected}"
    return ""


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.groups = [_Group()]
        self.names: set[str] = set()

    def run(self) -> None:
        while self.at < len(self.text):
            self._step(self.text[self.at])
        if len(self.groups) > 1:
            raise _Rejected("missing closing )")

    def _step(self, char: str) -> None:
        if char == "(":
            self._open()
        elif char == ")":
            self._close()
        elif char == "|":
            self.at += 1
            group = self.groups[-1]
            group.has_item = group.repeated = False
        elif char in "*+?":
            self._repeat(char, 1, -1)
        elif char == "{" and (match := _REPEAT.match(self.text, self.at)):
            low = int(match[1])
            high = low if match[2] is None else int(match[3]) if match[3] else -1
            self._repeat(match[0], low, high)
        elif char == "[":
            self._class()
            self._item(1)
        elif char == "\\":
            self._escape()
        else:
            self.at += 1
            self._item(1)

    def _item(self, weight: int) -> None:
        group = self.groups[-1]
        group.has_item, group.repeated, group.last_weight = True, False, weight
        group.weight = max(group.weight, weight)

    def _repeat(self, operator: str, low: int, high: int) -> None:
        group = self.groups[-1]
        if not group.has_item:
            raise _Rejected(f"nothing to repeat before {operator!r}")
        if group.repeated:
            raise _Rejected(f"repetition cannot be repeated: {operator!r}")
        if low > MAX_REPEAT or high > MAX_REPEAT or (high != -1 and low > high):
            raise _Rejected(f"repeat count {operator} must be at most {MAX_REPEAT}, and ascending")
        self.at += len(operator)
        if self.text[self.at : self.at + 1] == "?":
            self.at += 1
        if operator[0] == "{":
            weight = group.last_weight * max(high if high != -1 else low, 1)
            if weight > MAX_REPEAT:
                raise _Rejected(f"nested repetition exceeds {MAX_REPEAT}")
            group.last_weight = weight
            group.weight = max(group.weight, weight)
        group.repeated = True

    def _open(self) -> None:
        self.at += 1
        if self.text[self.at : self.at + 1] == "?":
            if name := _GROUP_NAME.match(self.text, self.at):
                if name[1] in self.names:
                    raise _Rejected(f"group name {name[1]!r} is used twice")
                self.names.add(name[1])
                self.at = name.end()
            elif flags := _FLAGS.match(self.text, self.at):
                self.at = flags.end()
                if flags[3] == ")":
                    return
            else:
                raise _Rejected(
                    f"unsupported group {self.text[self.at - 1 : self.at + 3]!r} (look-around has"
                    " no RE2 form)"
                )
        if len(self.groups) > _MAX_DEPTH:
            raise _Rejected(f"groups are nested deeper than {_MAX_DEPTH}")
        self.groups.append(_Group())

    def _close(self) -> None:
        if len(self.groups) == 1:
            raise _Rejected("unexpected )")
        weight = self.groups.pop().weight
        self.at += 1
        self._item(weight)

    def _escape(self) -> None:
        if self.text.startswith("\\Q", self.at):
            end = self.text.find("\\E", self.at)
            literal = self.text[self.at + 2 : end if end >= 0 else None]
            self.at = end + 2 if end >= 0 else len(self.text)
            if literal:
                self._item(1)
            return
        self.at += 1
        if self.text[self.at : self.at + 1] in tuple("AbBz"):
            self.at += 1
        else:
            self._escaped_character()
        self._item(1)

    def _escaped_character(self) -> int:
        """Pass an escape that stands for characters; its code point if it is one character, else
        -1.
        """
        char = self.text[self.at : self.at + 1]
        if not char:
            raise _Rejected("trailing backslash")
        if char in "pP":
            match = _UNICODE.match(self.text, self.at)
            if match is None:
                raise _Rejected(f"invalid character class \\{char}")
            self.at = match.end()
            return -1
        if char in "dDsSwW":
            self.at += 1
            return -1
        for pattern in (_OCTAL, _HEX):
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return self._code_point(match, pattern)
        if char in "afnrtv" or (char.isascii() and not char.isalnum()):
            self.at += 1
            return ord(char)
        if char.isdecimal():
            raise _Rejected(f"back-reference \\{char} has no RE2 form")
        raise _Rejected(f"invalid escape sequence \\{char}")

    @staticmethod
    def _code_point(match: re.Match[str], pattern: re.Pattern[str]) -> int:
        digits = match[0] if pattern is _OCTAL else match[1] or match[0][1:]
        value = int(digits, 8 if pattern is _OCTAL else 16)
        if value > sys.maxunicode:
            raise _Rejected(f"invalid escape sequence \\{match[0]}")
        return value

    def _class(self) -> None:
        start = self.at
        self.at += 1
        if self.text[self.at : self.at + 1] == "^":
            self.at += 1
        first = True
        while first or self.text[self.at : self.at + 1] != "]":
            if self.at >= len(self.text):
                raise _Rejected(f"missing closing ] of {self.text[start : start + 20]!r}")
            self._class_member()
            first = False
        self.at += 1

    def _class_member(self) -> None:
        posix = _POSIX.match(self.text, self.at)
        if posix is not None:
            if posix[1] not in _POSIX_NAMES:
                raise _Rejected(f"invalid character class {posix[0]}")
            self.at = posix.end()
            return
        low = self._class_character()
        if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in (
            "]",
            "",
        ):
            self.at += 1
            high = self._class_character()
            if low == -1 or high < low:
                raise _Rejected("character range is not ascending")

    def _class_character(self) -> int:
        if self.text[self.at : self.at + 1] == "\\":
            self.at += 1
            return self._escaped_character()
        char = self.text[self.at : self.at + 1]
        if not char:
            raise _Rejected("missing closing ]")
        self.at += 1
        return ord(char)
