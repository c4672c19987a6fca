"""RE2's grammar; the examples are from RE2's own documentation and Go's regexp/syntax."""

from __future__ import annotations

import time

import pytest

from dockermesh.config.rules.regex import check_regex


@pytest.mark.parametrize(
    "expression",
    [
        "^/a/[^/]+(/.*)?$",
        r"(?i)^(.*?;)?(user=jason)(;.*)?$",
        r"(?P<name>a)(?<other>b)",
        r"(?i-s:a)b",
        r"\d+\.\w*?\pN\p{Greek}\x41\x{10FFFF}\Q(\E",
        "[[:alpha:]-z][]a][a-]",
        "a{3}b{2,}c{1,1000}",
        "a{,3}",
        "{literal}",
        "(|a)*",
        "(a+)+$",
        r"[\d\s-]",
        r"\_\-\/",
    ],
)
def test_accepted(expression: str) -> None:
    assert check_regex(expression) == ""


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "*",
        "a**",
        "a++",
        "(?=a)",
        "(?!a)",
        "(?<=a)b",
        "(?<!a)b",
        "(?>a)",
        "(?#comment)",
        r"(a)\1",
        r"\k<name>",
        "(a",
        "a)",
        "[a",
        "[z-a]",
        "[[:nope:]]",
        "a{1001}",
        "a{2,1}",
        "(a{100}){100}",
        "(?P<a>x)(?P<a>y)",
        "a\\",
        r"\Z",
        "|*",
        "a" * 1025,
        "(" * 1020,
    ],
)
def test_refused(expression: str) -> None:
    assert check_regex(expression) != ""


def test_the_time_depends_on_the_length_only() -> None:
    began = time.process_time()
    check_regex("(a*)*" * 200)
    check_regex("[" * 1024)
    assert time.process_time() - began < 1
