"""Serves a router until SIGTERM, then leaves without dropping a request.

Invariant: a request that has been read is answered before the process ends, unless that takes
longer than `_GRACE`. Leaving has two steps: for `DRAIN_SECONDS` everything is still served, but
each answer closes its connection and `/health` says 503, so that callers move on by themselves;
then the listener closes and requests in hand are finished.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from httpservice.messages import Request, Response, error_response
from httpservice.routing import Route, Router

App = Callable[[Request], Response]

_GRACE = 8.0  # below the ten seconds after which `docker stop` kills
_LARGEST_BODY = 64 * 1024
# Longer than the hour after which Envoy drops an idle connection: whoever closes first may cross a
# request on its way.
_IDLE_SECONDS = 3900.0


class Drain:
    """Counts the requests in hand, and knows whether the process is leaving."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_hand = 0
        self.leaving = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around everything from a request's head to the last byte of its answer."""
        with self._changed:
            self._in_hand += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_hand -= 1
                self._changed.notify_all()

    def wait_until_idle(self, timeout: float) -> bool:
        """True when no request is in hand."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_hand == 0, timeout)


class Server(ThreadingHTTPServer):
    """One thread for each connection; the handler finds the app and the drain here."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, app: App, *, served_by: str, drain: Drain) -> None:
        self.app = app
        self.served_by = served_by
        self.drain = drain
        super().__init__(("", port), _Connection)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse lookup of the address, which can hang on a slow DNS
        server.
        """
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = (
            self.served_by,
            self.socket.getsockname()[1],
        )

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is its own business; the rest is a bug and gets its traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(BaseHTTPRequestHandler):
    """One connection, kept open for further requests."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float] = _IDLE_SECONDS
    wbufsize = -1  # head and body leave in one segment
    disable_nagle_algorithm = True

    def answer(self) -> None:
        """Read one request, let the app answer it, and write one line about it."""
        started = time.monotonic()
        with self.server.drain.request():
            request = self._read()
            response = request if isinstance(request, Response) else self._call(request)
            self._write(response)
        if self.path != "/health":
            self._log(response.status, time.monotonic() - started)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def _read(self) -> Request | Response:
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not length.isdigit():
            self.close_connection = True
            return error_response(
                HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length"
            )
        if int(length) > _LARGEST_BODY:
            self.close_connection = True
            return error_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a body may have {_LARGEST_BODY} bytes",
            )
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(
            self.command,
            self.path.partition("?")[0],
            headers,
            self.rfile.read(int(length)),
        )

    def _call(self, request: Request) -> Response:
        try:
            return self.server.app(request)
        except Exception as error:
            print(
                f"error: {request.method} {request.path}: {error!r}",
                file=sys.stderr,
                flush=True,
            )
            return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")

    def _write(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("content-type", response.content_type)
        self.send_header("content-length", str(len(response.body)))
        self.send_header("x-served-by", self.server.served_by)
        for name, value in response.headers:
            self.send_header(name, value)
        if self.server.drain.leaving or self.close_connection:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    def _log(self, status: int, seconds: float) -> None:
        request_id = self.headers.get("x-request-id", "-")
        line = (
            f"{self.command} {self.path} {status:d} {seconds * 1000:.0f}ms"
            f" request-id={request_id}\n"
        )
        sys.stdout.write(line)
        sys.stdout.flush()

    def version_string(self) -> str:
        """The Server header: no Python version for strangers."""
        return "bookinfo"

    def log_message(self, format: str, *args: object) -> None:
        """Not the base class's log: ours has status and time in one line."""


def health_route(service: str, drain: Drain) -> Route:
    """`/health`: 200 while serving, 503 while leaving."""

    def health(_request: Request) -> Response:
        if drain.leaving:
            return error_response(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{service} is leaving"
            )
        return Response(
            HTTPStatus.OK,
            f'{{"status": "{service} is healthy"}}\n'.encode(),
            "application/json",
        )

    return Route("GET", "/health", health)


def run(
    service: str,
    title: str,
    routes: list[Route],
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Serve the routes and `/health` on PORT (9080) until SIGTERM or SIGINT."""
    # Blocked here and in all threads to come, and waited for below: a handler could interrupt
    # whoever holds a lock.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    drain = Drain()
    version = environment.get("SERVICE_VERSION", "v1")
    router = Router([*routes, health_route(title, drain)])
    server = Server(
        int(environment.get("PORT", "9080")),
        router,
        served_by=f"{service}-{version}",
        drain=drain,
    )
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
    ).start()
    print(f"{service} {version} listening on port {server.server_port}", flush=True)
    signal.sigwait(ends)
    drain.leaving = True
    time.sleep(float(environment.get("DRAIN_SECONDS", "1")))
    server.shutdown()
    server.server_close()
    finished = drain.wait_until_idle(_GRACE)
    print(
        f"{service} {version} stopped{'' if finished else ', requests still in hand'}",
        flush=True,
    )
