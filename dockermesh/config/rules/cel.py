"""Whether Envoy takes a text as a condition in CEL, the Common Expression Language.

Invariant: what passes here Envoy takes, for it refuses a listener whole for one bad condition:
grammar, functions and how many arguments they have, constant patterns, depth. It knows attributes
of any name, and has no macros that loop. Source of the grammar:
https://github.com/google/cel-spec/blob/master/doc/langdef.md; of the rest, Envoy 1.40 itself
(`tests/protocol/test_access_logs.py` asks it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockermesh.config.rules.cel_tokens import Token, Word, Wrong, tokens, value_of
from dockermesh.config.rules.regex import check_program

_MAX_DEPTH = 20
"""Envoy's parser gives up somewhat above, at 32 of what it counts: brackets, and what follows each
other from the left, as in `a.b.c` and `a + b + c`.
"""
_MAX_LENGTH = 10_000
_MOST_DIGITS = 40
_BINARY = frozenset(
    {"||", "&&", "==", "!=", "<=", ">=", "<", ">", "in", "+", "-", "*", "/", "%"}
)
_KEYWORDS = frozenset({"in", "true", "false", "null"})
_RESERVED = frozenset(
    {
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    }
)
"""Names that the language keeps for others, into which it is embedded."""
_FUNCTIONS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(
        (
            "size",
            "type",
            "dyn",
            "int",
            "uint",
            "double",
            "bytes",
            "bool",
            "duration",
            "timestamp",
            "has",
        ),
        (1,),
    ),
    **dict.fromkeys(("matches", "contains", "startsWith", "endsWith"), (2,)),
}
"""How many arguments the functions have that Envoy knows."""
_METHODS: Mapping[str, tuple[int, ...]] = {
    "size": (0,),
    **dict.fromkeys(("matches", "contains", "startsWith", "endsWith"), (1,)),
    **dict.fromkeys(
        (
            "getFullYear",
            "getMonth",
            "getDate",
            "getDayOfMonth",
            "getDayOfWeek",
            "getDayOfYear",
            "getHours",
            "getMinutes",
            "getSeconds",
            "getMilliseconds",
        ),
        (0, 1),
    ),
}
"""The same of those that are called on a value."""
_LOOPS = frozenset({"all", "exists", "exists_one", "map", "filter"})


@dataclass(frozen=True, slots=True)
class _Argument:
    words: list[Token]
    is_field: bool


def check_expression(text: str) -> str:
    """What is wrong with the expression and where, or nothing."""
    if len(text) > _MAX_LENGTH:
        return f"must be a CEL expression of at most {_MAX_LENGTH} characters"
    try:
        _Parser(tokens(text)).run()
    except Wrong as wrong:
        return f"must be a valid CEL expression: {_place(text, wrong.at)}: {wrong}"
    return ""


def _place(text: str, at: int) -> str:
    before = text[:at]
    column = at - (before.rfind("\n") + 1) + 1
    line = before.count("\n") + 1
    return f"line {line}, column {column}" if "\n" in text else f"column {column}"


class _Parser:
    def __init__(self, words: list[Token]) -> None:
        self.words = words
        self.at = 0
        self.depth = 0

    def run(self) -> None:
        self._expression()
        if self._next.word is not Word.END:
            raise Wrong(f"unexpected {self._next.shown}", self._next.at)

    @property
    def _next(self) -> Token:
        return self.words[self.at]

    def _is(self, text: str) -> bool:
        word = Word.NAME if text.isalpha() else Word.OPERATOR
        return self._next.word is word and self._next.text == text

    def _accept(self, text: str) -> bool:
        if self._is(text):
            self.at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise Wrong(f"expected {text!r}, not {self._next.shown}", self._next.at)

    def _expression(self) -> bool:
        """Returns whether it is nothing but the field of something."""
        before = self.depth
        self._deepen()
        is_field = self._operands()
        if self._accept("?"):
            is_field = False
            self._operands()
            self._expect(":")
            self._expression()

        self.depth = before
        return is_field

    def _deepen(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Wrong("it is nested too deeply", self._next.at)

    def _operands(self) -> bool:
        """Operands with binary operators between them: what binds first does not matter for whether
        it can be read.
        """
        is_field = self._unary()
        while self._next.text in _BINARY and not self._next.is_text:
            is_field = False
            if self._next.text not in {"||", "&&"}:
                self._deepen()
            self.at += 1
            self._unary()
        return is_field

    def _unary(self) -> bool:
        is_bare = not (self._is("!") or self._is("-"))
        # `!-x` cannot be read, but `!-1`: there the sign is the number's.
        if not self._all("!") and not self._is_negative_number():
            self._all("-")
        is_field = self._primary()
        before = self.depth

        while self._is(".") or self._is("["):
            self._deepen()
            if self._accept("."):
                is_field = self._member()
            else:
                self._expect("[")
                self._expression()
                self._expect("]")
                is_field = False

        self.depth = before
        return is_field and is_bare

    def _is_negative_number(self) -> bool:
        return self._is("-") and self.words[self.at + 1].word is Word.NUMBER

    def _all(self, operator: str) -> bool:
        first = self.at
        while self._accept(operator):
            pass
        return self.at > first

    def _member(self) -> bool:
        name = self._name()
        if not self._accept("("):
            self._refuse_message(name)
            return True
        self._call(name, _METHODS, self._arguments())
        return False

    def _name(self) -> Token:
        name = self._next
        if name.word is not Word.NAME:
            raise Wrong(f"expected a name, not {name.shown}", name.at)
        if name.text in _KEYWORDS:
            raise Wrong(f"{name.shown} is no name", name.at)
        self.at += 1
        return name

    def _primary(self) -> bool:
        token = self._next
        if token.is_text:
            value_of(token)
            self.at += 1
        elif token.word is Word.NUMBER or self._is("-"):
            self._number()
        elif self._accept("("):
            self._expression()
            self._expect(")")
        elif self._accept("["):
            self._list()
        elif self._accept("{"):
            self._map()
        elif token.word is Word.NAME and token.text in _KEYWORDS - {"in"}:
            self.at += 1
        else:
            self._identifier()
        return False

    def _number(self) -> None:
        is_negative = self._accept("-")
        token = self._next
        if token.word is not Word.NUMBER:
            raise Wrong(f"expected a number, not {token.shown}", token.at)
        self.at += 1

        text = token.text.lower()
        digits = text.rstrip("u")
        if digits.isdigit() or digits.startswith("0x"):
            if len(digits) > _MOST_DIGITS:
                raise Wrong(f"{token.shown} is too large", token.at)
            number = int(digits, 16 if digits.startswith("0x") else 10)
            largest = 2**64 - 1 if text != digits else 2**63 - 1 + is_negative
            if number > largest:
                raise Wrong(f"{token.shown} is too large", token.at)

    def _identifier(self) -> None:
        is_absolute = self._accept(".")
        if not is_absolute and self._next.word is not Word.NAME:
            raise Wrong(f"expected a value, not {self._next.shown}", self._next.at)
        name = self._name()
        if name.text in _RESERVED:
            raise Wrong(f"{name.shown} is a reserved word", name.at)
        self._refuse_message(name)

        if self._accept("("):
            arguments = self._arguments()
            self._call(name, _FUNCTIONS, arguments)
            if name.text == "has" and not arguments[0].is_field:
                raise Wrong("has() asks for a field, as in has(a.b)", name.at)

    def _refuse_message(self, name: Token) -> None:
        if self._is("{"):
            raise Wrong(f"messages such as {name.text} cannot be made", name.at)

    def _arguments(self) -> list[_Argument]:
        """The arguments up to the closing bracket."""
        found: list[_Argument] = []
        if self._accept(")"):
            return found

        while True:
            first = self.at
            is_field = self._expression()
            found.append(_Argument(self.words[first : self.at], is_field))
            if not self._accept(","):
                self._expect(")")
                return found

    def _call(
        self, name: Token, known: Mapping[str, tuple[int, ...]], given: list[_Argument]
    ) -> None:
        if name.text in _LOOPS:
            raise Wrong(f"Envoy has no {name.text}(), or any other loop", name.at)
        if name.text not in known:
            raise Wrong(f"there is no function {name.text}() here", name.at)
        if len(given) not in known[name.text]:
            raise Wrong(f"{name.text}() has another number of arguments", name.at)
        if name.text == "matches":
            self._check_pattern(given[-1])

    def _check_pattern(self, argument: _Argument) -> None:
        # Envoy reads a pattern that is written out at once, in brackets or not.
        words = [word for word in argument.words if word.text not in {"(", ")"}]
        if len(words) == 1 and words[0].is_text and words[0].text[0] not in "bB":
            wrong = check_program(value_of(words[0]))
            if wrong:
                raise Wrong(wrong, words[0].at)

    def _list(self) -> None:
        while not self._accept("]"):
            self._expression()
            if not self._accept(","):
                self._expect("]")
                return

    def _map(self) -> None:
        while not self._accept("}"):
            self._expression()
            self._expect(":")
            self._expression()
            if not self._accept(","):
                self._expect("}")
                return
