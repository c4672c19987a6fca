"""Conditions and formats of access logs: what Envoy refuses is refused, with its place."""

from __future__ import annotations

import pytest

from dockermesh.config.documents import read_text
from dockermesh.config.rules.cel import check_expression
from dockermesh.config.rules.log_format import check_labels, check_text

WRONG = {
    "": "column 1: expected a value",
    "response.code >": "column 16: expected a value, not the end",
    "a &&\n b )": "line 2, column 4: unexpected ')'",
    "foo(1)": "column 1: there is no function foo()",
    "a.split('/')": "column 3: there is no function split()",
    "[1].all(x, x > 1)": "column 5: Envoy has no all()",
    "size(a, b)": "column 1: size() has another number of arguments",
    "a.matches('(')": "column 11: regex",
    "has(a)": "column 1: has() asks for a field",
    "!-a": "column 3: expected a number",
    "'\\q'": "column 1: unexpected",
    "'\\ud800'": "column 1: \\ud800 is no character",
    "9223372036854775808": "is too large",
    "a - 9223372036854775808": "column 5: '9223372036854775808' is too large",
    "--9223372036854775808": "is too large",
    "9" * 9000: "is too large",
    "if": "column 1: 'if' is a reserved word",
    "f(1,)": "column 5: expected a value",
    "a ? b ? c : d : e": "expected ':'",
    "Foo{a: 1}": "messages such as Foo",
    "x" + ".y" * 30: "column 40: it is nested too deeply",
    " + ".join(["x"] * 30): "it is nested too deeply",
    "(" * 5000: "column 21: it is nested too deeply",
    "has(" * 2000: "column 81: it is nested too deeply",
    "a" * 10_001: "at most 10000 characters",
}
RIGHT = (
    "response.code >= 400",
    "'x-a' in request.headers && !(request.headers['x-a'].matches('^[0-9]+$'))",
    "has(request.headers.x) || connection.mtls ? true : 1 in [1, 2,]",
    "!-1 == -9223372036854775808 // why not",
    "r'\\q' == b'\\x41' || request.time.getHours('UTC') > 0x1F",
)


@pytest.mark.parametrize("text", WRONG, ids=lambda t: t[:20])
def test_a_wrong_condition_is_refused_at_its_place(text: str) -> None:
    assert WRONG[text] in check_expression(text)


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_condition_is_taken(text: str) -> None:
    assert check_expression(text) == ""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("100%", "column 4"),
        ("%NOPE%", "there is no operator NOPE"),
        ("%RESPONSE_CODES%", "did you mean RESPONSE_CODE?"),
        ("%REQ%", "needs something in brackets"),
        ("%REQ(é)%", "has no 'é'"),
        ("%REQ(a:b)%", "has no 'a:b'"),
        ("%RESP(:)%", "has no ':'"),
        ("%REQ(a):٣%", "is no operator"),
        ("%QUERY_PARAM(\n)%", "is no operator"),
        ("%CEL(a\n== b)%", "is no operator"),
        ("x %PROTOCOL(x)%", "column 3: %PROTOCOL% has no brackets"),
        ("%PROTOCOL:3%", "takes no length"),
        ("%START_TIME(%n)%", "has no"),
        ("%CEL(foo%", "is no operator"),
        ("%CEL(a b)%", "column 3: unexpected 'b'"),
        ("a\0", "NUL"),
    ],
)
def test_a_wrong_format_is_refused_at_its_place(text: str, wrong: str) -> None:
    assert wrong in check_text(text)


def test_values_of_json_are_formats_at_any_depth() -> None:
    labels = {"a": "%PROTOCOL%", "b": {"c": ["x", "%NOPE%", 3, None]}}
    ((path, wrong),) = check_labels(labels)
    assert (path, "NOPE" in wrong) == (("b", "c", 1), True)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("{accessLogFile: /var/log/x}", "spec.accessLogFile"),
        ("{accessLogFormat: '%NOPE%'}", "spec.accessLogFormat"),
        ("{accessLogFormat: 'x', accessLogEncoding: JSON}", "spec.accessLogFormat"),
        ("{accessLogFormat: '[]', accessLogEncoding: JSON}", "spec.accessLogFormat"),
        (
            "{extensionProviders: [{name: a, envoyFileAccessLog: {path: x}}]}",
            "spec.extensionProviders[0].envoyFileAccessLog.path",
        ),
        (
            "{extensionProviders: [{name: a, envoyFileAccessLog: "
            "{logFormat: {labels: {k: '%NOPE%'}}}}]}",
            "spec.extensionProviders[0].envoyFileAccessLog.logFormat.labels.k",
        ),
    ],
)
def test_settings_that_would_cost_a_proxy_its_listeners_are_refused(
    spec: str, field: str
) -> None:
    reading = read_text(f"{{kind: MeshConfig, spec: {spec}}}")
    assert [f.field for f in reading.findings if f.is_error] == [field]
