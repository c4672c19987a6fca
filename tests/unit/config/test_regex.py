"""Expressions that Envoy takes and refuses, and what a user is told. Envoy itself is asked in
`tests/property/test_regex_verdicts.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dockermesh.config.rules.regex import (
    MAX_PROGRAM_SIZE,
    check_regex,
    covers,
    occurs_in,
    substituted,
)

BOOTSTRAP = Path(__file__).parents[3] / "compose/images/pod/bootstrap.json"


@pytest.mark.parametrize(
    "expression",
    [
        "^/a/[^/]+(/.*)?$",
        r"(?i)^(.*?;)?(user=jason)(;.*)?$",
        r"(?P<name>a)(?<other>b)",
        r"(?i-s:a)b",
        r"\d+\.\w*?\pN\p{Greek}\x41\x{FF}\Q(\E",
        "[[:alpha:]-z][]a][a-]",
        "a{3}b{2,}c{1,1000}",
        "a{,3}",
        "{literal}",
        "(|a)*",
        "(a+)+$",
        r"[\d\s-]",
        r"\_\-\/",
        "(?P<a>x)(?P<a>y)",
        r"\pL{1000}",
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
        "a\\",
        r"\Z",
        r"/\p{Foo}+",
        "(?P<é>a)",
        r"\x{100}",
        "a{1000}" * 40,
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


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            r"/\p{Foo}+",
            r"regex is not accepted by RE2: invalid character class range: \p{Foo}",
        ),
        ("(é", "regex is not accepted by RE2: missing ): (é"),
        (
            "(?P<é>a)",
            "regex is not accepted by RE2: invalid named capture group: (?P<é>",
        ),
        (
            "(?!a)",
            "regex is not accepted by RE2: invalid perl operator: (?! (look-around, atomic groups"
            " and comments have no RE2 form)",
        ),
        (
            "a{1000}" * 40,
            "regex is too complex: its RE2 program has 40004 steps, at most 32768 may be",
        ),
    ],
)
def test_the_message_is_what_re2_says(expression: str, message: str) -> None:
    assert check_regex(expression) == message


def test_a_message_is_short_however_long_the_expression() -> None:
    assert len(check_regex("(" * 1020)) < 300


def test_the_pods_bootstrap_allows_programs_of_the_size_that_is_checked() -> None:
    said = f'"re2.max_program_size.error_level": {MAX_PROGRAM_SIZE},'
    assert said in BOOTSTRAP.read_text()


def test_expressions_match_as_in_envoy() -> None:
    assert covers("/a.*", "/ab") and not covers("a", "/ab")
    assert covers("(?=a)", "a") is None
    assert occurs_in(r"^1\.2\d", "1.29.0") and not occurs_in("(", "(")
    # Envoy matches octets: one character beyond ASCII is several.
    assert covers("..", "é") and not covers(".", "é")


def test_re2_is_loaded_only_when_there_is_an_expression_and_says_nothing_itself() -> (
    None
):
    program = (
        "import sys; from dockermesh.config.rules import http_route, regex;"
        "assert 're2' not in sys.modules; assert regex.check_regex('('); assert 're2' in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("expression", "substitution", "text", "made"),
    [
        ("/a/([0-9]+)", r"/b?id=\1", "/a/12/x", "/b?id=12/x"),
        ("a", "b", "/a/a", "/b/b"),
        ("b+", r"<\0>", "abbc", "a<bb>c"),
        ("(x)?a", r"[\1]", "a", "[]"),
        ("a", r"\\1", "a", r"\1"),
        ("ä", "ö", "/ä", "/ö"),
        ("(", "b", "a", None),
    ],
)
def test_replacing_as_envoy_does(
    expression: str, substitution: str, text: str, made: str | None
) -> None:
    assert substituted(expression, substitution, text) == made
