"""Fields of Istio 1.0.6 keep their meaning."""

from __future__ import annotations

from typing import Any

import pytest

from dockermesh.config.api.common import Percent, StringMatch
from dockermesh.config.api.destination_rule import DestinationRule, RingHash, SimpleLB
from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.documents import read_document
from dockermesh.config.findings import Level


def read(kind: str, spec: dict[str, Any]) -> Any:
    document = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": kind,
        "metadata": {"name": "a"},
        "spec": spec,
    }
    reading = read_document(document)
    assert [f for f in reading.findings if f.level is Level.ERROR] == []
    assert reading.findings, "an old field is worth a warning"
    return reading.resources[0].spec


def route(**fields: Any) -> VirtualService:
    http = {"route": [{"destination": {"host": "ratings"}}], **fields}
    spec = read("VirtualService", {"hosts": ["ratings"], "http": [http]})
    assert isinstance(spec, VirtualService)
    return spec


def policy(**fields: Any) -> Any:
    spec = read("DestinationRule", {"host": "ratings", "trafficPolicy": fields})
    assert isinstance(spec, DestinationRule)
    return spec.traffic_policy


def test_abort_percent_aborts_that_share() -> None:
    fault = route(fault={"abort": {"percent": 100, "httpStatus": 500}}).http[0].fault
    assert fault is not None and fault.abort is not None
    assert fault.abort.percentage == Percent(100)


def test_the_new_percentage_wins_over_the_old() -> None:
    fault = (
        route(
            fault={
                "delay": {"percent": 1, "percentage": {"value": 2}, "fixedDelay": "1s"}
            }
        )
        .http[0]
        .fault
    )
    assert fault is not None and fault.delay is not None
    assert fault.delay.percentage == Percent(2)


def test_mirror_percent() -> None:
    assert route(mirror={"host": "a"}, mirrorPercent=5).http[
        0
    ].mirror_percentage == Percent(5)


def test_flat_header_fields_join_the_operations() -> None:
    http = route(
        appendRequestHeaders={"a": "1", "b": "2"},
        removeResponseHeaders=["x"],
        headers={"request": {"add": {"b": "3"}, "set": {"c": "4"}}},
    ).http[0]
    assert (
        http.headers is not None
        and http.headers.request is not None
        and http.headers.response is not None
    )
    assert http.headers.request.add == {"a": "1", "b": "3"}
    assert http.headers.request.set == {"c": "4"}
    assert http.headers.response.remove == ("x",)


def test_allow_origin_is_exact_or_anything() -> None:
    cors = (
        route(corsPolicy={"allowOrigin": ["*", "https://a.example"]})
        .http[0]
        .cors_policy
    )
    assert cors is not None
    assert cors.allow_origins == (
        StringMatch(regex=".*"),
        StringMatch(exact="https://a.example"),
    )


def test_consecutive_errors_are_gateway_errors() -> None:
    outlier = policy(outlierDetection={"consecutiveErrors": 7}).outlier_detection
    assert (outlier.consecutive_gateway_errors, outlier.consecutive_5xx_errors) == (
        7,
        None,
    )


def test_least_conn_is_least_request() -> None:
    assert (
        policy(loadBalancer={"simple": "LEAST_CONN"}).load_balancer.simple
        is SimpleLB.LEAST_REQUEST
    )


def test_minimum_ring_size() -> None:
    balancer = policy(
        loadBalancer={"consistentHash": {"useSourceIp": True, "minimumRingSize": 64}}
    ).load_balancer
    assert balancer.consistent_hash.ring_hash == RingHash(64)


@pytest.mark.parametrize(
    ("api_version", "kind", "replacement"),
    [
        ("config.istio.io/v1alpha2", "memquota", "RateLimit"),
        ("config.istio.io/v1alpha2", "QuotaSpec", "RateLimit"),
        ("config.istio.io/v1alpha2", "rule", "Telemetry"),
        ("config.istio.io/v1alpha2", "denier", "AuthorizationPolicy"),
        ("config.istio.io/v1alpha2", "RouteRule", "VirtualService"),
        ("authentication.istio.io/v1alpha1", "Policy", "PeerAuthentication"),
        ("rbac.istio.io/v1alpha1", "ServiceRole", "AuthorizationPolicy"),
    ],
)
def test_dropped_kinds_name_their_replacement(
    api_version: str, kind: str, replacement: str
) -> None:
    reading = read_document(
        {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, "spec": {}}
    )
    (finding,) = reading.findings
    assert finding.is_error and replacement in finding.message
