"""Whether Envoy takes a regular expression. RE2 is asked, in the way in which Envoy asks it.

Invariant: the verdict is Envoy's. An expression that it refuses would cost a proxy all of its
routes or its whole listener, so none may pass here; and none that it takes may be refused, but for
Istio's own limit of the length.

Measured with Envoy 1.40 (`tests/property/test_regex_verdicts.py` compares the two).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re2

MAX_LENGTH = 1024
"""Istio's limit, by which it keeps programs below the size that Envoy accepts."""
MAX_PROGRAM_SIZE = 32768
"""What RE2 may compile an expression to. Envoy's default is 100 (`re2.max_program_size.error_level`
in its runtime), which a path with a UUID exceeds; the pods' bootstrap says this, as Istio's does.
"""
_LONGEST_MESSAGE = 200
"""RE2 quotes the whole expression where it misses something at the end."""
# RE2 knows no escapes of ordinary characters, so only these are escaped.
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_REFERENCE = re.compile(rb"\\([0-9\\])")
_HINTS = (
    (
        "invalid perl operator: (?",
        "look-around, atomic groups and comments have no RE2 form",
    ),
    ("invalid escape sequence: \\k", "back-references have no RE2 form"),
    *(
        (f"invalid escape sequence: \\{d}", "back-references have no RE2 form")
        for d in range(1, 10)
    ),
    (
        "invalid escape sequence: \\x{",
        "Envoy matches octets, so \\x{FF} is the largest",
    ),
    ("invalid escape sequence: \\Z", "the end of the text is \\z"),
    ("bad repetition operator", "possessive and repeated repetition have no RE2 form"),
    ("invalid repetition size", "at most 1000 in all, and ascending"),
)


def check_regex(expression: str) -> str:
    """What Istio or Envoy would say against an expression in a field of Istio's, or nothing."""
    if not expression:
        return "regex must not be empty"
    if len(expression) > MAX_LENGTH:
        return f"regex is too large, at most {MAX_LENGTH} characters are allowed"

    return check_program(expression)


@lru_cache(maxsize=1024)
def check_program(expression: str, largest: int = MAX_PROGRAM_SIZE) -> str:
    """What Envoy would say against an expression of any length, or nothing. `largest` is the
    program's size that is allowed.
    """
    compiled = _compiled(expression)
    if isinstance(compiled, str):
        return f"regex is not accepted by RE2: {compiled}"

    size: int = compiled.programsize
    if size > largest:
        return f"regex is too complex: its RE2 program has {size} steps, at most {largest} may be"
    return ""


def literal(text: str) -> str:
    """An expression that is this text and nothing else."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def literal_but(
    text: str, wildcard: re.Pattern[str], meaning: Callable[[str], str]
) -> str:
    """An expression that is this text, but for its wildcards, of which each has a meaning."""
    made, at = "", 0
    for found in wildcard.finditer(text):
        made += literal(text[at : found.start()]) + meaning(found[0])
        at = found.end()
    return made + literal(text[at:])


def covers(expression: str, text: str) -> bool | None:
    """Whether Envoy finds that an expression matches all of a text; None if it refuses it."""
    compiled = _compiled(expression)
    return (
        None if isinstance(compiled, str) else bool(compiled.fullmatch(_octets(text)))
    )


def occurs_in(expression: str, text: str) -> bool:
    """Whether an expression matches a part of a text; not if RE2 refuses it."""
    compiled = _compiled(expression)
    return not isinstance(compiled, str) and bool(compiled.search(_octets(text)))


def substituted(expression: str, substitution: str, text: str) -> str | None:
    """The text with all that an expression matches replaced, as Envoy does: `\\1` is a group, `\\0`
    the whole match. None if Envoy refuses the expression.
    """
    compiled = _compiled(expression)
    if isinstance(compiled, str):
        return None

    def made(match: re2._Match[bytes]) -> bytes:
        return _REFERENCE.sub(
            lambda found: _referred(found[1], match), _octets(substitution)
        )

    replaced: bytes = compiled.sub(made, _octets(text))
    return replaced.decode("utf-8", "replace")


def _referred(reference: bytes, match: re2._Match[bytes]) -> bytes:
    # Of a group that took no part, nothing; a doubled backslash is one.
    return match.group(int(reference)) or b"" if reference.isdigit() else reference


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _compiled(expression: str) -> re2._Regexp | str:
    """The expression as RE2 compiled it, or what RE2 says against it."""
    import re2  # 5 ms, for which a file without any expression need not wait

    options = re2.Options()
    # RE2 would write each refusal to stderr.
    options.log_errors = False
    # Envoy matches octets, not characters. What is compiled differs: `\pL` has 7 steps, not 593.
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        return re2.compile(_octets(expression), options)
    except re2.error as error:
        return _explained(_as_written(error.args[0]))
    finally:
        # It would keep the last 128 of them, with up to 8 MiB each.
        re2.purge()


def _as_written(message: bytes) -> str:
    """RE2's message. What it quotes of the expression may be encoded once more, octet by octet."""
    text = message.decode("utf-8", "replace")
    try:
        return text.encode("latin-1").decode("utf-8")[:_LONGEST_MESSAGE]
    except UnicodeError:
        return text[:_LONGEST_MESSAGE]


def _explained(message: str) -> str:
    hint = next((hint for start, hint in _HINTS if message.startswith(start)), "")
    return f"{message} ({hint})" if hint else message
