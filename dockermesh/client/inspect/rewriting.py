"""What a route makes of a request: what the target sees of it, and where a redirect leads.

Source: Envoy's `RouteAction` (`prefix_rewrite`, `regex_rewrite`, `host_rewrite_literal`) and
`RedirectAction`.
"""

from __future__ import annotations

from dataclasses import replace

from dockermesh.client.inspect.dump import Json
from dockermesh.client.inspect.matching import Request
from dockermesh.config.rules.regex import substituted

_CODES = {
    "FOUND": 302,
    "SEE_OTHER": 303,
    "TEMPORARY_REDIRECT": 307,
    "PERMANENT_REDIRECT": 308,
}
_MOVED = 301
"""MOVED_PERMANENTLY is zero, which proto JSON leaves out."""
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def rewritten(route: Json, request: Request) -> Request:
    """The request as the route forwards it."""
    action = route.get("route", {})
    return replace(
        request,
        path=_path(action, route.get("match", {}), request.path),
        authority=str(action.get("host_rewrite_literal", request.authority)),
    )


def redirected(redirect: Json, match: Json, request: Request) -> tuple[int, str]:
    """The status of a redirect, and its Location."""
    scheme = str(redirect.get("scheme_redirect", "")) or (
        "https" if redirect.get("https_redirect") else request.scheme
    )
    host = _host(redirect, scheme, request)
    if "path_redirect" in redirect:
        path = _redirect_path(str(redirect["path_redirect"]), request)
    else:
        path = _path(redirect, match, request.path)

    if redirect.get("strip_query"):
        path = path.partition("?")[0]
    status = _CODES.get(str(redirect.get("response_code", "")), _MOVED)
    return status, f"{scheme}://{host}{path}"


def _redirect_path(path: str, request: Request) -> str:
    # A path with a query of its own replaces that of the request, too.
    query = request.path.partition("?")[2]
    return f"{path}?{query}" if query and "?" not in path else path


def _host(redirect: Json, scheme: str, request: Request) -> str:
    name, colon, port = request.authority.rpartition(":")
    if not colon or not port.isdigit():
        name, port = request.authority, ""
    # The port of the former scheme would be wrong for the new one.
    if scheme != request.scheme and port == _DEFAULT_PORTS.get(request.scheme):
        port = ""

    name = str(redirect.get("host_redirect", name))
    if "port_redirect" in redirect:
        port = str(redirect["port_redirect"])
    elif "host_redirect" in redirect:
        port = ""
    return f"{name}:{port}" if port else name


def _path(action: Json, match: Json, path: str) -> str:
    plain, mark, query = path.partition("?")
    if "prefix_rewrite" in action:
        plain = str(action["prefix_rewrite"]) + plain[len(_matched(match, plain)) :]
    elif "regex_rewrite" in action:
        rule = action["regex_rewrite"]
        expression = str(rule.get("pattern", {}).get("regex", ""))
        made = substituted(expression, str(rule.get("substitution", "")), plain)
        plain = made if made is not None else plain
    return f"{plain}{mark}{query}"


def _matched(match: Json, path: str) -> str:
    """The part of the path that the route's condition took."""
    for kind in ("prefix", "path_separated_prefix"):
        if kind in match:
            return path[: len(str(match[kind]))]
    return path
