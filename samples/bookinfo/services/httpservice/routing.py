"""Paths to functions: `/reviews/{product}` matches one segment and hands it over as text.

The first route that fits path and method wins; a path that fits with another method only is 405,
none at all 404.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus

from httpservice.messages import Request, Response, error_response

Handler = Callable[..., Response]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path template; the handler gets the request, and the segments in braces by
    name.
    """

    method: str
    template: str
    handler: Handler

    def match(self, path: str) -> dict[str, str] | None:
        """The values of the segments in braces, or None if the path is another one."""
        wanted, given = self.template.split("/"), path.split("/")
        if len(wanted) != len(given):
            return None
        values: dict[str, str] = {}
        for want, have in zip(wanted, given, strict=True):
            if want.startswith("{") and have:
                values[want.strip("{}")] = have
            elif want != have:
                return None
        return values


class Router:
    """Picks the route of a request and calls its handler."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)

    def __call__(self, request: Request) -> Response:
        # HEAD is GET whose body the server leaves out.
        method = "GET" if request.method == "HEAD" else request.method
        allowed: list[str] = []
        for route in self._routes:
            values = route.match(request.path)
            if values is None:
                continue
            if route.method == method:
                return route.handler(request, **values)
            allowed.append(route.method)
        if allowed:
            refusal = error_response(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.path} takes {', '.join(allowed)}",
            )
            return Response(
                refusal.status,
                refusal.body,
                refusal.content_type,
                (("allow", ", ".join(allowed)),),
            )
        return error_response(
            HTTPStatus.NOT_FOUND, f"there is nothing at {request.path}"
        )


def product_id(text: str) -> int | None:
    """A product's id out of a path segment, or None if it is not a number."""
    return int(text) if text.isascii() and text.isdigit() else None
