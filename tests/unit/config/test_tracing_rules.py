"""What of traces Envoy would refuse a listener for is refused where it is said."""

from __future__ import annotations

import pytest

from dockermesh.config.documents import read_text

TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t}
spec: {tracing: [{customTags: {a: %s}}]}
"""
MESH = """
kind: MeshConfig
spec:
  extensionProviders: [{name: z, %s}]
  defaultConfig: {tracing: {customTags: {a: %s}}}
"""
ZIPKIN = "zipkin: {service: z, port: 9411, %s}"
GOOD = "{literal: {value: x}}"


def errors(text: str) -> list[str]:
    return [f.message for f in read_text(text).findings if f.is_error]


@pytest.mark.parametrize(
    "tag",
    [
        "{formatter: {value: '%NOPE%'}}",
        "{formatter: {value: '%REQ_WITHOUT_QUERY(:path)%'}}",
        "{header: {name: 'a b'}}",
        "{literal: {value: ''}}",
        "{environment: {name: ''}}",
    ],
)
def test_a_tag_that_envoy_would_refuse_is(tag: str) -> None:
    assert errors(TELEMETRY % tag)
    assert errors(MESH % (ZIPKIN % "", tag))


@pytest.mark.parametrize(
    "more",
    ["headers: [{name: 'a b', value: c}]", "path: '/a b'", "traceContextOption: B4"],
)
def test_a_provider_that_envoy_would_refuse_is(more: str) -> None:
    assert errors(MESH % (ZIPKIN % more, GOOD))


@pytest.mark.parametrize(
    "tag",
    [GOOD, "{formatter: {value: '%PROTOCOL% %REQ(a)%'}}", "{header: {name: x-a}}"],
)
def test_what_envoy_takes_is_taken(tag: str) -> None:
    assert errors(TELEMETRY % tag) == []
    more = "headers: [{name: a, value: c}], path: /z, traceContextOption: USE_B3"
    assert errors(MESH % (ZIPKIN % more, tag)) == []


def test_two_modes_may_be_told_apart() -> None:
    both = "[{match: {mode: CLIENT}}, {match: {mode: SERVER}}]"
    text = TELEMETRY.replace("[{customTags: {a: %s}}]", both)
    assert read_text(text).findings == ()
    text = TELEMETRY.replace("[{customTags: {a: %s}}]", "[{}, {}]")
    assert "the last counts" in str(read_text(text).findings)
