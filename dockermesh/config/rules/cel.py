"""Whether a text is an expression of CEL, the Common Expression Language: its grammar, not its
types.

Source of the grammar: https://github.com/google/cel-spec/blob/master/doc/langdef.md. Depth is
bounded.
"""

from __future__ import annotations

import re

_MAX_DEPTH = 100
_MAX_LENGTH = 10_000
_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<string>[rR]?[bB]?[rR]?(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''
      |"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
  | (?P<number>0x[0-9a-fA-F]+[uU]?|[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?
      |[0-9]+[eE][+-]?[0-9]+|[0-9]+[uU]?)
  | (?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
  | (?P<operator>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,(){}\[\]])
    """,
    re.VERBOSE | re.DOTALL,
)
_BINARY = frozenset(
    {"||", "&&", "==", "!=", "<=", ">=", "<", ">", "in", "+", "-", "*", "/", "%"}
)
# Names that the language keeps for others, into which it is embedded.
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


class _Wrong(ValueError):
    pass


def check_expression(text: str) -> str:
    """What is wrong with the expression, or nothing."""
    if len(text) > _MAX_LENGTH:
        return f"must be a CEL expression of at most {_MAX_LENGTH} characters"
    try:
        _Parser(_tokens(text)).run()
    except _Wrong as wrong:
        return f"must be a valid CEL expression: {wrong}"
    return ""


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _Wrong(f"unexpected {text[at : at + 10]!r}")
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match[0]))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def run(self) -> None:
        self._expression()
        if self.at < len(self.tokens):
            raise _Wrong(f"unexpected {self._peek()!r}")

    def _peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def _accept(self, text: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == (
            "name" if text == "in" else "operator",
            text,
        ):
            self.at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise _Wrong(f"expected {text!r}, not {self._peek() or 'the end'!r}")

    def _expression(self) -> None:
        """Operands joined by binary operators (whose precedence does not matter here), or `a ? b :
        c`.
        """
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Wrong("it is nested too deeply")

        self._unary()
        # What binds first does not matter for whether it can be read.
        while self._peek() in _BINARY and self.tokens[self.at][0] in (
            "operator",
            "name",
        ):
            self.at += 1
            self._unary()
        if self._accept("?"):
            self._expression()
            self._expect(":")
            self._expression()
        self.depth -= 1

    def _unary(self) -> None:
        while self._accept("!") or self._accept("-"):
            pass
        self._primary()

        while True:
            if self._accept("."):
                self._name()
                if self._accept("("):
                    self._list(")")
                elif self._peek() == "{":
                    self._message()
            elif self._accept("["):
                self._expression()
                self._expect("]")
            else:
                return

    def _name(self) -> None:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != "name":
            raise _Wrong(f"expected a name, not {self._peek() or 'the end'!r}")
        self.at += 1

    def _primary(self) -> None:
        if self.at >= len(self.tokens):
            raise _Wrong("it ends too early")

        kind, text = self.tokens[self.at]
        if kind in ("string", "number"):
            self.at += 1
        elif self._accept("("):
            self._expression()
            self._expect(")")
        elif self._accept("["):
            self._list("]")
        elif text == "{":
            self._message()
        else:
            self._accept(".")
            if text in _RESERVED or text == "in":
                raise _Wrong(f"{text!r} is a reserved word")
            self._name()
            if self._accept("("):
                self._list(")")
            elif self._peek() == "{":
                self._message()

    def _list(self, end: str) -> None:
        while not self._accept(end):
            self._expression()
            if not self._accept(","):
                self._expect(end)
                return

    def _message(self) -> None:
        self._expect("{")
        while not self._accept("}"):
            self._expression()
            self._expect(":")
            self._expression()
            if not self._accept(","):
                self._expect("}")
                return
