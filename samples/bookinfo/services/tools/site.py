"""A small site for tests of routes and gateways, with some of httpbin's paths, in plaintext and
where wanted in TLS.

PORT is the plaintext port. With TLS_NAME it answers TLS on 443, too, under a certificate of that
name which it signs itself at the start, and gives away at `/ca.crt`.
"""

from __future__ import annotations

import itertools
import os
import ssl
import subprocess
import tempfile
import threading
import time
from http import HTTPStatus
from pathlib import Path

from httpservice.messages import Request, Response, error_response, json_response
from httpservice.routing import Route, Router
from httpservice.server import Drain, Server, run

TLS_PORT = 443
_LONGEST_DELAY_S = 10.0
_calls = itertools.count()


def show(request: Request, **more: str) -> Response:
    """What arrived here."""
    name = os.environ.get("SERVICE_NAME", "site")
    return json_response(
        {"name": name, "path": request.path, "headers": dict(request.headers), **more}
    )


def status(request: Request, code: str) -> Response:
    """`/status/418`: that status."""
    if not code.isdigit() or not 200 <= int(code) < 600:
        return error_response(
            HTTPStatus.BAD_REQUEST, "a status is a number from 200 to 599"
        )
    return json_response({"status": int(code)}, int(code))


def delay(request: Request, seconds: str) -> Response:
    """`/delay/0.5`: the same as `/get`, later."""
    try:
        time.sleep(min(max(float(seconds), 0.0), _LONGEST_DELAY_S))
    except ValueError:
        return error_response(HTTPStatus.BAD_REQUEST, "a delay is a number of seconds")
    return show(request)


def unstable(request: Request) -> Response:
    """Every second call fails."""
    if next(_calls) % 2 == 0:
        return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "unstable")
    return show(request)


def routes(certificate: bytes, **more: str) -> list[Route]:
    """What the site serves."""
    return [
        Route("GET", "/", lambda request: show(request, **more)),
        Route("GET", "/get", lambda request: show(request, **more)),
        Route("GET", "/headers", lambda request: show(request, **more)),
        Route("GET", "/status/{code}", status),
        Route("GET", "/delay/{seconds}", delay),
        Route("GET", "/unstable", unstable),
        Route(
            "GET",
            "/ca.crt",
            lambda _request: Response(
                HTTPStatus.OK, certificate, "application/x-pem-file"
            ),
        ),
    ]


def serve_tls(name: str) -> bytes:
    """Serve the site on TLS in a thread; returns the certificate."""
    folder = Path(tempfile.mkdtemp())
    key, certificate = folder / "tls.key", folder / "tls.crt"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
    more = [
        "-keyout",
        str(key),
        "-out",
        str(certificate),
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    pem = certificate.read_bytes()
    server = Server(
        TLS_PORT,
        Router(routes(pem, tls=name)),
        served_by=f"{os.environ.get('SERVICE_NAME', 'site')}-v1-tls",
        drain=Drain(),
    )
    # The handshake belongs to the thread of the connection, or one silent client would stop all
    # others.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return pem


if __name__ == "__main__":
    tls_name = os.environ.get("TLS_NAME", "")
    run(
        os.environ.get("SERVICE_NAME", "site"),
        "Site",
        routes(serve_tls(tls_name) if tls_name else b""),
    )
