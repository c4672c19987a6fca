"""Mixer's expressions: how they are read, and what follows from them."""

from __future__ import annotations

import pytest

from dockermesh.client.convert.conditions import Test as Condition
from dockermesh.client.convert.conditions import alternatives, pattern_of_regex
from dockermesh.client.convert.envoy_words import cel
from dockermesh.client.convert.expression import (
    Attribute,
    Call,
    Constant,
    Inexpressible,
    parse,
)

PATH, USER = Attribute("request.path"), Attribute("request.headers", "x-user")


def test_the_first_that_is_there_binds_tighter_than_a_comparison() -> None:
    found = parse('request.headers["x-user"] | "" == "a" && request.path == "/"')

    assert found == Call(
        "&&",
        (
            Call("==", (Call("|", (USER, Constant(""))), Constant("a"))),
            Call("==", (PATH, Constant("/"))),
        ),
    )


@pytest.mark.parametrize(
    "text",
    ["", "a ==", "(a", 'a["b"', "a b", "f(a", '"open', "a.size()", "§", "(" * 60 + "a"],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(Inexpressible):
        parse(text)


def test_alternatives_of_one_attribute_are_one_with_several_values() -> None:
    found = alternatives(parse('request.path == "/a" || request.path.startsWith("/b")'))

    assert found == ((Condition(PATH, ("/a", "/b*")),),)


def test_alternatives_of_several_attributes_multiply() -> None:
    user = 'request.headers["x-user"]'
    found = alternatives(
        parse(f'(request.path == "/" || {user} == "a") && {user} != "b"')
    )

    not_b = Condition(USER, ("b",), negated=True)
    assert found == (
        (Condition(PATH, ("/",)), not_b),
        (Condition(USER, ("a",)), not_b),
    )


def test_a_false_conjunction_is_one_that_lacks_a_part() -> None:
    found = alternatives(parse('(request.path == "/" && connection.mtls) == false'))

    assert [test.negated for (test,) in found] == [True, True]


def test_what_stands_in_for_the_absent_is_compared_too() -> None:
    text = '(request.headers["x-user"] | "none") {} "none"'
    absent = Condition(USER, ("*",), negated=True, if_absent=True)

    assert alternatives(parse(text.format("=="))) == (
        (Condition(USER, ("none",)),),
        (absent,),
    )
    assert alternatives(parse(text.format("!="))) == (
        (Condition(USER, ("none",), negated=True),),
    )


def test_what_always_or_never_holds() -> None:
    assert alternatives(parse("true")) == ((),)
    assert alternatives(parse("true && false")) == ()


@pytest.mark.parametrize(
    "text",
    [
        'request.path == "/*"',
        'match(request.path, "a*b")',
        "request.size > 5",
        "request.path == request.host",
        '"a|b".matches(request.path)',
        " || ".join(f"a{n} && b{n}" for n in range(70)),
    ],
)
def test_what_has_no_counterpart_is_refused(text: str) -> None:
    with pytest.raises(Inexpressible):
        alternatives(parse(text))


@pytest.mark.parametrize(
    ("expression", "pattern"),
    [
        ("^/a$", "/a"),
        ("^/a", "/a*"),
        ("^/a.*$", "/a*"),
        (r"\.png$", "*.png"),
        ("^.*x$", "*x"),
    ],
)
def test_expressions_that_are_patterns(expression: str, pattern: str) -> None:
    assert pattern_of_regex(expression) == pattern


def test_conditions_of_logs_are_cel() -> None:
    text = 'response.duration > "5ms" && match(request.headers["X-A"] | "no", "a*")'

    assert cel(parse(text)) == (
        '((request.duration > duration("5ms")) && ("x-a" in request.headers ?'
        ' request.headers["x-a"] : "no").startsWith("a"))'
    )
