"""The shared plumbing: routes, headers that go along, calls with a deadline."""

from __future__ import annotations

import socket
import time

import pytest
from httpservice.messages import Request, Response, json_response
from httpservice.propagation import propagated
from httpservice.routing import Route, Router, product_id
from httpservice.upstream import Upstream, UpstreamError
from patience import SLACK

ROUTER = Router(
    [
        Route(
            "GET",
            "/ratings/{product}",
            lambda _request, product: json_response({"got": product}),
        ),
        Route(
            "POST",
            "/ratings/{product}",
            lambda _request, product: json_response({"set": product}),
        ),
        Route("GET", "/", lambda _request: json_response("root")),
    ]
)


def ask(method: str, path: str) -> Response:
    return ROUTER(Request(method, path, {}))


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/ratings/7", 200, b'{"got": "7"}\n'),
        ("HEAD", "/ratings/7", 200, b'{"got": "7"}\n'),
        ("POST", "/ratings/7", 200, b'{"set": "7"}\n'),
        ("GET", "/", 200, b'"root"\n'),
        ("GET", "/ratings/", 404, None),
        ("GET", "/ratings", 404, None),
        ("GET", "/ratings/7/more", 404, None),
        ("DELETE", "/ratings/7", 405, None),
    ],
)
def test_routes(method: str, path: str, status: int, body: bytes | None) -> None:
    response = ask(method, path)
    assert response.status == status
    assert body is None or response.body == body


def test_a_refused_method_says_which_are_allowed() -> None:
    assert ("allow", "GET, POST") in ask("PUT", "/ratings/7").headers


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("12", 12), ("-1", None), ("x", None), ("²", None), ("1.0", None)],
)
def test_product_id(text: str, number: int | None) -> None:
    assert product_id(text) == number


def test_trace_and_user_headers_go_along_and_others_stay() -> None:
    kept = {
        "x-request-id": "r",
        "traceparent": "t",
        "tracestate": "s",
        "b3": "b",
        "x-b3-traceid": "1",
        "x-b3-flags": "1",
        "x-datadog-trace-id": "2",
        "x-ot-span-context": "o",
        "x-cloud-trace-context": "c",
        "grpc-trace-bin": "g",
        "end-user": "jason",
        "cookie": "a=b",
        "authorization": "Bearer x",
        "user-agent": "curl",
    }
    dropped = {
        "host": "productpage",
        "content-length": "3",
        "connection": "keep-alive",
        "x-forwarded-for": "1.2.3.4",
    }
    assert propagated(kept | dropped) == kept


def test_where_an_upstream_is() -> None:
    assert Upstream.from_environment("details", {}) == Upstream("details", 9080)
    environment = {
        "DETAILS_HOSTNAME": "d",
        "DETAILS_SERVICE_PORT": "80",
        "SERVICES_DOMAIN": "service.consul",
    }
    assert Upstream.from_environment("details", environment) == Upstream(
        "d.service.consul", 80
    )


def test_an_upstream_that_does_not_answer_costs_no_more_than_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(UpstreamError, match="timed out"):
            Upstream("127.0.0.1", silent.getsockname()[1]).get_json(
                "/", headers={}, timeout=0.1
            )
    assert 0.09 < time.monotonic() - started < 2 * SLACK


def test_an_upstream_that_refuses_is_an_error_without_status() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UpstreamError, match="refused") as caught:
        Upstream("127.0.0.1", port).get_json("/", headers={}, timeout=1 * SLACK)
    assert caught.value.status is None
