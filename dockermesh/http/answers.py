"""What every server of ours says when it refuses: an object of Kubernetes' kind Status.

kubectl prints its reason; other clients find one form of error on all ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web


def status_object(
    code: int, reason: str, message: str, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A Status that says that the request failed."""
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    if details is not None:
        body["details"] = dict(details)
    return body | {"code": code}


def status(code: int, reason: str, message: str) -> web.Response:
    """The answer with that Status."""
    return web.json_response(status_object(code, reason, message), status=code)
