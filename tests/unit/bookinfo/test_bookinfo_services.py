"""The services as processes on loopback, talking to each other and to a recording stand-in for one
they call.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from httpservice.messages import Request, Response, json_response
from httpservice.server import Drain, Server
from httpservice.upstream import Upstream
from patience import SLACK
from productpage import library

SERVICES = Path(library.__file__).parents[1]
Running = tuple[subprocess.Popen[str], int]


@contextmanager
def service(name: str, **environment: str) -> Iterator[Running]:
    """One service on a free port; killed at the end if it is still there."""
    settings = os.environ | {"PORT": "0", "DRAIN_SECONDS": "0"} | environment
    command = [sys.executable, "-m", name]
    process = subprocess.Popen(
        command, cwd=SERVICES, env=settings, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().split()[-1])
    finally:
        process.kill()
        process.communicate()


@dataclass
class Recorder:
    """Stands in for a service: keeps the requests, answers what it is told."""

    answer: Callable[[Request], Response]
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        return self.answer(request)


@contextmanager
def recorder(answer: Callable[[Request], Response]) -> Iterator[Recorder]:
    """A recorder on a free port."""
    record = Recorder(answer)
    server = Server(0, record, served_by="recorder", drain=Drain())
    record.port = server.server_port
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    try:
        yield record
    finally:
        server.shutdown()
        server.server_close()


def at(name: str, port: int) -> dict[str, str]:
    return {
        f"{name.upper()}_HOSTNAME": "127.0.0.1",
        f"{name.upper()}_SERVICE_PORT": str(port),
    }


def call(
    port: int, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, Any, str]:
    """Status, headers and text of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * SLACK)
    try:
        connection.request(
            method,
            path,
            body,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["productpage", "details", "reviews", "ratings"])
def test_health_and_leaving(name: str) -> None:
    with service(name) as (process, port):
        status, headers, text = call(port, "/health")
        assert (status, headers["x-served-by"]) == (200, f"{name}-v1")
        assert "is healthy" in json.loads(text)["status"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(5 * SLACK) == 0


def test_a_connection_is_kept_and_head_has_no_body() -> None:
    with service("details") as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * SLACK)
        sockets = set()
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, "/details/0")
            assert connection.sock is not None
            sockets.add(connection.sock.getsockname())
            body = connection.getresponse().read()
            assert (body == b"") == (method == "HEAD")
        assert len(sockets) == 1
        connection.close()


def test_details() -> None:
    with service("details") as (_, port):
        status, _, text = call(port, "/details/0")
        assert status == 200
        keys = {
            "id",
            "author",
            "year",
            "type",
            "pages",
            "publisher",
            "language",
            "ISBN-10",
            "ISBN-13",
        }
        assert set(json.loads(text)) == keys
        assert call(port, "/details/x")[0] == 400


def test_ratings_can_be_changed() -> None:
    with service("ratings") as (_, port):
        assert json.loads(call(port, "/ratings/0")[2]) == {
            "id": 0,
            "ratings": {"Reviewer1": 5, "Reviewer2": 4},
        }
        assert call(port, "/ratings/0", "POST", '{"Reviewer1": 1}')[0] == 200
        assert json.loads(call(port, "/ratings/0")[2])["ratings"] == {"Reviewer1": 1}
        assert call(port, "/ratings/0", "POST", "no")[0] == 400


def test_stars_of_each_version() -> None:
    with service("ratings") as (_, ratings):
        for settings, rating in (
            ({}, None),
            ({"ENABLE_RATINGS": "true"}, {"stars": 5, "color": "black"}),
            (
                {"ENABLE_RATINGS": "true", "STAR_COLOR": "red"},
                {"stars": 5, "color": "red"},
            ),
        ):
            with service("reviews", **at("ratings", ratings), **settings) as (_, port):
                document = json.loads(call(port, "/reviews/0")[2])
                assert document["reviews"][0].get("rating") == rating
                assert set(document) == {"id", "podname", "clustername", "reviews"}


def test_reviews_without_ratings_are_reviews_still() -> None:
    with (
        recorder(lambda _: Response(503)) as ratings,
        service("reviews", ENABLE_RATINGS="true", **at("ratings", ratings.port)) as (
            _,
            port,
        ),
    ):
        status, _, text = call(port, "/reviews/0", end_user="jason", traceparent="t")
        assert status == 200
        assert json.loads(text)["reviews"][1]["rating"] == {
            "error": "Ratings service is currently unavailable"
        }
        assert {"end-user": "jason", "traceparent": "t"}.items() <= ratings.requests[
            0
        ].headers.items()


def test_the_signed_in_user_goes_along_and_a_claimed_one_does_not() -> None:
    with (
        recorder(lambda _: json_response({})) as behind,
        service(
            "productpage", **at("details", behind.port), **at("reviews", behind.port)
        ) as (
            _,
            port,
        ),
    ):
        status, headers, _ = call(port, "/login", "POST", "username=jason&passwd=x")
        assert (status, headers["location"]) == (303, "/productpage")
        session = headers["set-cookie"].partition(";")[0]
        assert (
            call(
                port,
                "/productpage",
                cookie=session,
                x_request_id="r1",
                x_b3_traceid="b",
            )[0]
            == 200
        )
        details, reviews = behind.requests
        assert (details.path, reviews.path) == ("/details/0", "/reviews/0")
        for request in behind.requests:
            wanted = {"end-user": "jason", "x-request-id": "r1", "x-b3-traceid": "b"}
            assert wanted.items() <= request.headers.items()
        behind.requests.clear()
        call(port, "/productpage", end_user="jason")
        assert len(behind.requests) == 2
        assert all("end-user" not in request.headers for request in behind.requests)
        assert "Max-Age=0" in call(port, "/logout", cookie=session)[1]["set-cookie"]


def test_failed_reviews_are_asked_twice_and_the_page_is_there() -> None:
    with (
        recorder(lambda _: Response(555)) as reviews,
        service("details") as (_, details),
        service(
            "productpage", **at("details", details), **at("reviews", reviews.port)
        ) as (
            _,
            port,
        ),
    ):
        status, _, page = call(port, "/productpage")
        assert status == 200
        assert "Sorry, product reviews are currently unavailable for this book." in page
        assert "1234567890" in page
        assert len(reviews.requests) == 2
        assert call(port, "/api/v1/products/0/reviews")[0] == 555


def test_slow_reviews_are_given_the_timeout_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def hang(_request: Request) -> Response:
        released.wait(10 * SLACK)
        return json_response({})

    monkeypatch.setattr(library, "_TIMEOUT", 0.1)
    with recorder(hang) as slow:
        upstream = Upstream("127.0.0.1", slow.port)
        answer = library.Library(upstream, upstream, upstream).reviews(0, {})
        assert answer.status == 500
        assert len(slow.requests) == 2
        released.set()


def test_the_api() -> None:
    with (
        service("details") as (_, details),
        service("productpage", **at("details", details)) as (_, port),
    ):
        assert [
            book["title"] for book in json.loads(call(port, "/api/v1/products")[2])
        ] == ["The Comedy of Errors"]
        assert json.loads(call(port, "/api/v1/products/0")[2])["pages"] == 200
        assert call(port, "/api/v1/products/1")[0] == 404
        assert call(port, "/")[0] == 200
        assert call(port, "/nowhere")[0] == 404


def test_a_request_in_hand_is_finished_before_the_process_ends() -> None:
    arrived, released = threading.Event(), threading.Event()

    def hold(_request: Request) -> Response:
        arrived.set()
        released.wait(10 * SLACK)
        return json_response({"ratings": {"Reviewer1": 2}})

    with (
        recorder(hold) as ratings,
        service("reviews", ENABLE_RATINGS="true", **at("ratings", ratings.port)) as (
            process,
            port,
        ),
    ):
        answers: list[tuple[int, Any, str]] = []
        caller = threading.Thread(
            target=lambda: answers.append(call(port, "/reviews/0"))
        )
        caller.start()
        assert arrived.wait(5 * SLACK)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        released.set()
        caller.join(5 * SLACK)
        status, headers, text = answers[0]
        assert (status, headers["connection"]) == (200, "close")
        assert json.loads(text)["reviews"][0]["rating"]["stars"] == 2
        assert process.wait(5 * SLACK) == 0


def test_while_draining_requests_are_served_and_health_says_so() -> None:
    with service("details", DRAIN_SECONDS="30") as (process, port):
        process.send_signal(signal.SIGTERM)
        while (
            call(port, "/health")[0] == 200
        ):  # the signal is on its way; the test's timeout bounds this
            pass
        status, headers, _ = call(port, "/details/0")
        assert (status, headers["connection"]) == (200, "close")


def test_a_body_without_a_length_is_refused() -> None:
    with service("ratings") as (_, port):
        assert (
            call(port, "/ratings/0", "POST", "", transfer_encoding="chunked")[0] == 411
        )
        assert call(port, "/ratings/0", "POST", "x" * 70_000)[0] == 413
