"""A rule's `match` as alternatives, each a list of tests that all must hold.

What Mixer could not evaluate (an attribute that is absent, and nothing by `|` in its place) made
its rule not apply; so does it here. Values are patterns as AuthorizationPolicy has them: exact,
`prefix*`, `*suffix`, and `*` for any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product

from dockermesh.client.convert.expression import (
    Attribute,
    Call,
    Constant,
    Expression,
    Inexpressible,
    operands,
)

ANY = "*"
_MOST = 64
_LITERALS = frozenset({"ip", "email", "dnsName", "uri"})
"""Functions that give a text a type; what is compared is the text."""
_PLAIN = re.compile(r"(?:[^.*+?()\[\]{}|\\^$]|\\[^A-Za-z0-9])*")


@dataclass(frozen=True, slots=True)
class Test:
    """That an attribute has one of the values; negated, that it has none of them.

    Where the attribute is absent it does not hold, unless `if_absent`.
    """

    attribute: Attribute
    values: tuple[str, ...]
    negated: bool = False
    if_absent: bool = False


Alternative = tuple[Test, ...]


def alternatives(expression: Expression) -> tuple[Alternative, ...]:
    """The expression as alternatives; `((),)` always holds, `()` never. Raises Inexpressible."""
    return _merged(_alternatives(expression, holds=True))


def _alternatives(expression: Expression, *, holds: bool) -> list[Alternative]:
    """When the expression is true, or with `holds=False` when it is false."""
    if isinstance(expression, Constant) and isinstance(expression.value, bool):
        return [()] if expression.value is holds else []
    if isinstance(expression, Attribute):
        return _leaf(expression, None, ("true",), equal=holds)
    if isinstance(expression, Call):
        if expression.function in ("&&", "||"):
            sides = [_alternatives(side, holds=holds) for side in expression.arguments]
            if (expression.function == "&&") is holds:
                return _bounded([(*a, *b) for a, b in product(*sides)])
            return _bounded([each for side in sides for each in side])
        if expression.function in ("==", "!="):
            return _comparison(
                *expression.arguments, equal=holds is (expression.function == "==")
            )
        pattern = _pattern_of(expression)
        if pattern is not None:
            return _compared(pattern[0], (pattern[1],), equal=holds)
    raise Inexpressible(f"{_shown(expression)} has no counterpart")


def _bounded(found: list[Alternative]) -> list[Alternative]:
    if len(found) > _MOST:
        raise Inexpressible(f"the match has more than {_MOST} alternatives")
    return found


def _comparison(
    left: Expression, right: Expression, *, equal: bool
) -> list[Alternative]:
    if constant_of(left) is not None:
        left, right = right, left
    constant = constant_of(right)
    if constant is None:
        raise Inexpressible(f"{_shown(right)} is compared, which is not constant")

    if isinstance(constant, bool) and isinstance(left, Call) and left.function != "|":
        return _alternatives(left, holds=constant is equal)
    return _compared(left, (_exact(constant),), equal=equal)


def _compared(
    subject: Expression, values: tuple[str, ...], *, equal: bool
) -> list[Alternative]:
    attribute, stand_in = subject_of(subject)
    return _leaf(attribute, stand_in, values, equal=equal)


def _leaf(
    attribute: Attribute, stand_in: str | None, values: tuple[str, ...], *, equal: bool
) -> list[Alternative]:
    if_absent = stand_in is not None and matches(stand_in, values) is equal
    if not equal:
        return [(Test(attribute, values, negated=True, if_absent=if_absent),)]
    found: list[Alternative] = [(Test(attribute, values),)]
    return [*found, (absent(attribute),)] if if_absent else found


def absent(attribute: Attribute) -> Test:
    """That an attribute is not there."""
    return Test(attribute, (ANY,), negated=True, if_absent=True)


def matches(text: str, patterns: tuple[str, ...]) -> bool:
    """Whether the text has the form of one of the patterns."""
    return any(
        text == pattern
        or (pattern.endswith(ANY) and text.startswith(pattern[:-1]))
        or (pattern.startswith(ANY) and text.endswith(pattern[1:]))
        for pattern in patterns
    )


def subject_of(expression: Expression) -> tuple[Attribute, str | None]:
    """The attribute that is compared, and what stands in where it is absent.

    Of several attributes of one side, names of the same workload, the first is it.
    """
    first, *rest = operands(expression)
    if not isinstance(first, Attribute):
        raise Inexpressible(f"{_shown(first)} has no counterpart")
    stand_in: str | None = None
    for other in rest:
        value = constant_of(other)
        if value is not None:
            stand_in = str(value)
        elif not (isinstance(other, Attribute) and _side(other) == _side(first)):
            raise Inexpressible(
                f"{_shown(other)} instead of {first} has no counterpart"
            )
    return first, stand_in


def _side(attribute: Attribute) -> str:
    side = attribute.name.partition(".")[0]
    return side if side in ("source", "destination") else attribute.name


def constant_of(expression: Expression) -> str | float | bool | None:
    """The value of what is the same for all requests."""
    if isinstance(expression, Constant):
        return expression.value
    if isinstance(expression, Call) and expression.function in _LITERALS:
        (inner,) = expression.arguments or (None,)
        return inner.value if isinstance(inner, Constant) else None
    return None


def _exact(value: str | float | bool) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text.startswith(ANY) or text.endswith(ANY):
        raise Inexpressible(f"{text!r} would be a pattern, because of its asterisk")
    return text


def _pattern_of(call: Call) -> tuple[Expression, str] | None:
    """What is compared with which pattern, of the functions for texts."""
    if len(call.arguments) != 2:
        return None
    subject, other = call.arguments
    if call.function == "matches":
        # The expression stands first: `"^a.*".matches(request.path)`.
        subject, other = other, subject
    value = constant_of(other)
    if not isinstance(value, str):
        return None
    if call.function == "match":
        return subject, _glob(value)
    if call.function == "startsWith":
        return subject, _exact(value) + ANY
    if call.function == "endsWith":
        return subject, ANY + _exact(value)
    return (subject, pattern_of_regex(value)) if call.function == "matches" else None


def _glob(pattern: str) -> str:
    if ANY in pattern.removesuffix(ANY) and ANY in pattern.removeprefix(ANY):
        raise Inexpressible(f"{pattern!r} has an asterisk that is not at one end")
    return pattern


def pattern_of_regex(expression: str) -> str:
    """The pattern that says the same as an expression, which is found anywhere in a text. Raises
    Inexpressible where there is none.
    """
    at_start, at_end = expression.startswith("^"), expression.endswith("$")
    middle = expression.removeprefix("^").removesuffix("$")
    at_start, middle = (
        at_start and not middle.startswith(".*"),
        middle.removeprefix(".*"),
    )
    at_end, middle = at_end and not middle.endswith(".*"), middle.removesuffix(".*")
    if not _PLAIN.fullmatch(middle) or not (at_start or at_end) or not middle:
        raise Inexpressible(
            f"the expression {expression!r} is neither a text nor its start or end"
        )
    text = _exact(re.sub(r"\\(.)", r"\1", middle))
    return text if at_start and at_end else text + ANY if at_start else ANY + text


def _merged(found: list[Alternative]) -> tuple[Alternative, ...]:
    """Alternatives that differ in the values of one test are one, with all of the values."""
    merged: list[Alternative] = []
    for alternative in found:
        last = merged[-1] if merged else ()
        joined = _joined(last, alternative) if merged else None
        if joined is None:
            merged.append(alternative)
        else:
            merged[-1] = joined
    return tuple(dict.fromkeys(merged))


def _joined(one: Alternative, other: Alternative) -> Alternative | None:
    different = [
        index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b
    ]
    if len(one) != len(other) or len(different) != 1:
        return None
    index = different[0]
    a, b = one[index], other[index]
    if a.negated or b.negated or a.attribute != b.attribute:
        return None
    values = tuple(dict.fromkeys((*a.values, *b.values)))
    return (*one[:index], replace(a, values=values), *one[index + 1 :])


def _shown(expression: Expression) -> str:
    if isinstance(expression, Call):
        return (
            f"{expression.function}(...)"
            if expression.function.isalpha()
            else (f"the operator {expression.function}")
        )
    return str(expression if isinstance(expression, Attribute) else expression.value)
