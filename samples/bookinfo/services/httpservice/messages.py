"""Requests and responses as plain values, so that a service's routes are functions that need no
socket to be tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request with its whole body; names in `headers` are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """One response with its whole body, so that its length is always known and the connection can
    be kept.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def json_response(document: Any, status: int = HTTPStatus.OK) -> Response:
    """A document as JSON, on one line."""
    return Response(status, json.dumps(document).encode() + b"\n", "application/json")


def error_response(status: int, message: str) -> Response:
    """An error in the one shape that all services use."""
    return json_response({"error": message}, status)


def html_response(page: str, status: int = HTTPStatus.OK) -> Response:
    """A page that may use its own inline style, and otherwise loads and runs nothing."""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self';"
        " base-uri 'none'"
    )
    headers = (("content-security-policy", policy), ("cache-control", "no-store"))
    return Response(status, page.encode(), "text/html; charset=utf-8", headers)


def redirect(location: str, *headers: tuple[str, str]) -> Response:
    """Send the browser to another page with GET, whatever the method was."""
    return Response(HTTPStatus.SEE_OTHER, headers=(("location", location), *headers))
