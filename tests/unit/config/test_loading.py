"""Text to plain data: what Kubernetes reads out of YAML, where it was, and what is refused."""

from __future__ import annotations

import time

import pytest

from dockermesh.config.loading import MAX_BYTES, Loaded, line_of, load_documents


def data(text: str) -> object:
    loaded = load_documents(text)
    assert loaded.error is None
    (document,) = loaded.documents
    return document.data


def refusal(text: str | bytes) -> str:
    loaded = load_documents(text)
    assert loaded.error is not None
    return loaded.error.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("~", None),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("12:30:45", "12:30:45"),
        ("2026-01-02", "2026-01-02"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("1h30m", "1h30m"),
        ("v1", "v1"),
        ("089", 89.0),
    ],
)
def test_scalars_are_what_kubernetes_makes_of_them(text: str, value: object) -> None:
    assert data(f"a: {text}") == {"a": value}


def test_keys_are_always_text() -> None:
    assert data("80: a\ntrue: b\n~: c") == {"80": "a", "true": "b", "~": "c"}


def test_ipv6_networks_in_flow_lists_are_text() -> None:
    text = "a: [1.2.3.4, 001:db8::, 2001:db8::]\nb: {c: fe80::}\n"
    assert data(text) == {
        "a": ["1.2.3.4", "001:db8::", "2001:db8::"],
        "b": {"c": "fe80::"},
    }


def test_merge_keys_and_aliases() -> None:
    assert data("base: &b {x: 1, y: 2}\nhere:\n  <<: *b\n  y: 3\n") == {
        "base": {"x": 1, "y": 2},
        "here": {"x": 1, "y": 3},
    }


def test_every_field_knows_its_line() -> None:
    (document,) = load_documents(
        "# first\nspec:\n  http:\n  - route:\n    - weight: 1\n    - weight: 2\n"
    ).documents
    assert line_of(document.data, ("spec", "http", 0, "route", 1, "weight")) == 6
    assert line_of(document.data, ("spec", "http", 0, "timeout")) == 4, (
        "a missing field is where its parent is"
    )


def test_keys_given_twice_are_told_with_both_lines() -> None:
    (document,) = load_documents("a: 1\nb: 2\na: 3\n").documents
    assert [(m.line, m.message) for m in document.mistakes] == [
        (3, "key 'a' is given twice (first on line 1)")
    ]


def test_documents_before_a_syntax_error_are_kept() -> None:
    loaded = load_documents("a: 1\n---\nb: [\n")
    assert [d.data for d in loaded.documents] == [{"a": 1}]
    assert (
        isinstance(loaded, Loaded)
        and loaded.error is not None
        and loaded.error.line == 4
    )


def test_json_is_read_too() -> None:
    assert data('{"a": [1, true, null, "x\\u00e9"]}') == {
        "a": [1, True, None, "x\u00e9"]
    }


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "once its aliases are expanded"),
        ("x" * (MAX_BYTES + 1), "larger than"),
        ("[" * 10_000 + "]" * 10_000, "nested deeper"),
        ("\n".join(" " * i + "a:" for i in range(2_000)), "nested deeper"),
        ("- " * 10_000 + "x", "nested deeper"),
        ("a: !!python/object/apply:os.system [true]", "tag"),
        ("a: 1\x00", "control characters"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("a: \ud800", "not Unicode"),
        ("a: &a [*a]", "stands for nothing"),
        ("? [a]\n: b", "a key must be a text"),
        ("<<: 5", "must be a mapping"),
        ("a:\n\t- b", "not valid YAML"),
    ],
)
def test_hostile_input_is_refused_quickly(text: str | bytes, expected: str) -> None:
    began = time.process_time()
    assert expected in refusal(text)
    assert time.process_time() - began < 5
