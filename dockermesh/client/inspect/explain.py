"""What decides a request: put together from one proxy's configuration and those of the workloads
that it leads to.

Invariant: pure, and the same for a live mesh and for files: only the `Surroundings` differ.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from dockermesh.client.inspect import routing, tls
from dockermesh.client.inspect.authorization import Caller, decide
from dockermesh.client.inspect.dump import Dump, Json
from dockermesh.client.inspect.limits import limits_of
from dockermesh.client.inspect.matching import Request
from dockermesh.client.inspect.rewriting import redirected, rewritten
from dockermesh.client.inspect.route_settings import aborted_with, settings_of
from dockermesh.client.inspect.tables import managed_by, path_match
from dockermesh.errors import InputError
from dockermesh.translate.envoy.names import (
    BLACK_HOLE_CLUSTER,
    PASSTHROUGH_CLUSTER,
    UNDECLARED_CLUSTER,
)
from dockermesh.translate.mesh.vips import VIP_RANGE

_DEFAULT_PORTS = {"http": 80, "https": 443}
WAYS_OUT = {
    PASSTHROUGH_CLUSTER: "passed through to where it was going",
    BLACK_HOLE_CLUSTER: "refused: nothing in the mesh is there",
    UNDECLARED_CLUSTER: (
        "as bytes to an endpoint of the service that was dialled, at this port, which it does not"
        " declare"
    ),
}
"""Clusters whose endpoints nobody knows before, and what becomes of requests there."""
_VIRTUAL = ipaddress.ip_network(VIP_RANGE)


@dataclass(frozen=True, slots=True)
class Source:
    """Who sends the request. `identity` is the SPIFFE identity that its proxy shows."""

    workload: str
    dump: Dump
    is_gateway: bool = False
    identity: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Where in the config a route comes from: `path` is the rule's place in the resource, `at` its
    file and line.
    """

    resource: str
    path: str = ""
    at: str = ""

    def to_dict(self) -> Json:
        """As JSON."""
        return {"resource": self.resource, "path": self.path, "at": self.at}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known besides the source's proxy."""

    rule_of: Callable[[Json], Rule | None] = lambda _route: None
    workload_at: Mapping[str, str] = field(default_factory=dict)
    identity_of: Mapping[str, str] = field(default_factory=dict)
    protocol_rules: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What decided the protocols of a workload's ports."""
    dump_of: Callable[[str], Dump | None] = lambda _workload: None


def parse_request(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[Request, str, int]:
    """The request for a URL, and the host and port that are dialled. A Host header is the
    authority.

    Raises InputError if the URL is none.
    """
    parts, host, port = _split_url(url)

    given = {name.lower(): value for name, value in (headers or {}).items()}
    authority = given.pop("host", "") or parts.netloc.rpartition("@")[2]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    return Request(method.upper(), parts.scheme, authority, path, given), host, port


def _split_url(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        if parts.hostname and port:
            return parts, parts.hostname, port
    except ValueError:
        pass  # a port that is no number, a broken IPv6 address

    raise InputError(
        f"{url!r} is no URL that can be explained",
        fix="for example http://reviews:9080/reviews/0",
    )


def explain(
    source: Source, request: Request, host: str, port: int, known: Surroundings
) -> Json:
    """Everything that decides the request, as JSON; `outcome` says in one sentence what comes
    out.
    """
    result: Json = {"source": source.workload, "request": _as_asked(request)}
    dialled = _dialled(source, host, port)
    chain = _chain_for(dialled, request)

    if dialled.listener is None or chain is None:
        outcome = f"refused: nothing takes connections to port {dialled.port}"
        return result | {"listener": None, "outcome": outcome}

    result["listener"] = {
        "name": dialled.listener.get("name", ""),
        "address": ":".join(map(str, routing.socket_of(dialled.listener))),
        "dialled": f"{dialled.address or host}:{dialled.port}",
    }
    return result | _carried(source, request, dialled, chain, known)


@dataclass(frozen=True, slots=True)
class _Dialled:
    """Where the connection goes to, and the listener of the source's proxy that takes it."""

    address: str
    port: int
    listener: Json | None


def _as_asked(request: Request) -> Json:
    return {
        "method": request.method,
        "url": f"{request.scheme}://{request.authority}{request.path}",
        "headers": dict(request.headers),
    }


def _dialled(source: Source, host: str, port: int) -> _Dialled:
    if not source.is_gateway:
        address = routing.address_of(source.dump, host)
        listener = routing.outbound_listener(source.dump, address, port)
        return _Dialled(address, port, listener)

    # A client of the gateway dials the host's port; the listener has one of its own.
    listener = routing.gateway_listener(source.dump, port)
    own_port = routing.socket_of(listener)[1] if listener is not None else port
    return _Dialled(source.address, own_port, listener)


def _chain_for(dialled: _Dialled, request: Request) -> Json | None:
    if dialled.listener is None:
        return None

    is_tls = request.scheme == "https"
    server_name = request.authority.partition(":")[0] if is_tls else ""
    connection = routing.Connection(
        dialled.address or "0.0.0.0", dialled.port, server_name, is_tls
    )
    return routing.filter_chain(dialled.listener, connection)


def _carried(
    source: Source,
    request: Request,
    dialled: _Dialled,
    chain: Json,
    known: Surroundings,
) -> Json:
    """What the filters of the chain do with the request: read it as HTTP, or pass its bytes on."""
    is_tls = request.scheme == "https"
    manager = routing.network_filter(chain, "HttpConnectionManager")
    if manager is not None and (not is_tls or "transport_socket" in chain):
        return _http(source, request, dialled, manager, known)

    proxy = routing.network_filter(chain, "TcpProxy")
    if proxy is None:
        reason = (
            "refused: the port takes HTTP, and this is TLS" if manager else "refused"
        )
        return {"outcome": reason}

    protocol = {"protocol": "TLS" if is_tls else "TCP"}
    result = _forwarded(source, request, proxy, known) | protocol
    if _lost(proxy, dialled):
        result["outcome"] = (
            f"closed: {dialled.address} is a virtual address of the mesh, which has no port"
            f" {dialled.port}"
        )
    return result


# HTTP
# --------------------------------------------------------------------------------------------------


def _http(
    source: Source,
    request: Request,
    dialled: _Dialled,
    manager: Json,
    known: Surroundings,
) -> Json:
    result: Json = {"protocol": "HTTP"}
    if source.is_gateway:
        decision = decide(
            list(_http_filters(manager)), request, Caller(address="", port=dialled.port)
        )
        if decision.allowed is False:
            return result | {"outcome": f"403: AuthorizationPolicy ({decision.by})"}
        result["limits"] = limits_of(manager)

    table = routing.route_table(source.dump, manager)
    if table is None:
        return result | {"outcome": "404: the listener's route table is not there"}

    found = routing.find_route(table, request, dialled.address)
    result["route_table"] = str(table.get("name", ""))
    if found.host is None:
        return result | {"outcome": f"404: the table has no host {request.authority!r}"}

    result["virtual_host"] = {
        "name": found.host.get("name", ""),
        "domain": found.domain,
    }
    result["passed_over"] = [
        {
            "match": path_match(route.get("match", {})),
            "rule": _rule(route, known),
            "reason": verdict.reason,
            "is_sure": verdict.answer is False,
        }
        for route, verdict in found.passed
    ]
    # Before any route, as Envoy does.
    if _wants_tls(found.host, request, manager):
        return result | _moved({"https_redirect": True}, {}, request)
    if found.route is None:
        return result | {"outcome": "404: no rule takes it"}

    route = found.route
    result |= {"rule": _rule(route, known), "match": path_match(route.get("match", {}))}

    if "direct_response" in route:
        status = route["direct_response"].get("status", 200)
        return result | {
            "outcome": f"{status}: answered by the proxy (direct response)",
            "status": status,
        }

    if "redirect" in route:
        return result | _moved(route["redirect"], route.get("match", {}), request)
    result |= settings_of(route)
    sent = rewritten(route, request)
    if sent != request:
        result["forwarded_as"] = {"authority": sent.authority, "path": sent.path}

    aborted = aborted_with(result.get("abort"))
    if aborted:
        return result | {
            "outcome": f"{aborted}: aborted by the rule's fault",
            "status": aborted,
        }
    return (
        result
        | _forwarded(source, sent, route.get("route", {}), known)
        | _lost(route.get("route", {}), dialled)
    )


def _wants_tls(host: Json, request: Request, manager: Json) -> bool:
    """Whether the host redirects what is not HTTPS (a Gateway's `httpsRedirect`)."""
    if str(host.get("require_tls", "NONE")) == "NONE":
        return False
    # What a client says of itself counts where a proxy before the gateway is trusted.
    is_believed = int(manager.get("xff_num_trusted_hops", 0)) > 0
    said = request.headers.get("x-forwarded-proto", "") if is_believed else ""
    return (said or request.scheme) != "https"


def _moved(redirect: Json, match: Json, request: Request) -> Json:
    status, location = redirected(redirect, match, request)
    return {
        "redirect": redirect,
        "location": location,
        "outcome": f"{status}: redirected to {location}",
        "status": status,
    }


def _lost(action: Json, dialled: _Dialled) -> Json:
    """What becomes of a request that is passed through to an address which is nobody's."""
    clusters = [name for name, _ in routing.clusters_of(action)]
    if clusters != [PASSTHROUGH_CLUSTER] or not _is_virtual(dialled.address):
        return {}
    return {
        "outcome": (
            f"503: passed through to {dialled.address}:{dialled.port}, a virtual address of the"
            " mesh, where nobody answers"
        ),
        "status": 503,
    }


def _is_virtual(address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in _VIRTUAL
    except ValueError:
        return False


def _rule(route: Json, known: Surroundings) -> Json | None:
    rule = known.rule_of(route)
    return rule.to_dict() if rule is not None else None


# destinations
# --------------------------------------------------------------------------------------------------


def _forwarded(
    source: Source, request: Request, action: Json, known: Surroundings
) -> Json:
    targets = [
        _destination(source, request, name, share, known)
        for name, share in routing.clusters_of(action)
    ]
    return {"destinations": targets, "outcome": _outcome(targets)}


def _outcome(targets: list[Json]) -> str:
    if len(targets) == 1:
        return _target_outcome(targets[0])
    texts = [f"{target['percent']:g} % {_target_outcome(target)}" for target in targets]
    return "; ".join(texts) or "nowhere"


def _target_outcome(target: Json) -> str:
    name, endpoints = target["cluster"], target["endpoints"]
    if name in WAYS_OUT:
        return WAYS_OUT[name]
    if not target["exists"]:
        return f"503: there is no cluster {name}"

    # Endpoints that Envoy looks up in DNS, or takes from the connection, are in no dump.
    if not endpoints and target["discovery"] in {"EDS", "STATIC"}:
        return f"503: {name} has no endpoints"

    is_refused = bool(endpoints) and all(e.get("accepts") is False for e in endpoints)
    return f"refused by {name}" if is_refused else f"to {name}"


def _destination(
    source: Source, request: Request, name: str, share: float, known: Surroundings
) -> Json:
    cluster = next((c for c in source.dump.clusters() if c.get("name") == name), None)
    parts = name.split("|")
    made: Json = {
        "cluster": name,
        "percent": share,
        "exists": cluster is not None,
        "endpoints": [],
    }
    if len(parts) == 4:
        made |= {"host": parts[3], "port": int(parts[1]), "subset": parts[2]}
    if cluster is None:
        return made | {"discovery": ""}

    made |= {
        "discovery": str(cluster.get("type", "STATIC")),
        "destination_rule": managed_by(cluster),
        "balancing": str(cluster.get("lb_policy", "ROUND_ROBIN")),
        "tls": tls.mode_of(cluster),
    }
    assignment = cluster.get("load_assignment") or next(
        (a for a in source.dump.endpoints() if a.get("cluster_name") == name), {}
    )
    made["endpoints"] = [
        _endpoint(source, request, cluster, entry, int(group.get("priority", 0)), known)
        for group in assignment.get("endpoints", ())
        for entry in group.get("lb_endpoints", ())
    ]

    return made


def _endpoint(
    source: Source,
    request: Request,
    cluster: Json,
    entry: Json,
    priority: int,
    known: Surroundings,
) -> Json:
    socket = entry.get("endpoint", {}).get("address", {}).get("socket_address", {})
    address, port = str(socket.get("address", "")), int(socket.get("port_value", 0))
    workload = known.workload_at.get(address, "")
    spoken = tls.upstream_tls(cluster, entry)
    made: Json = {
        "address": f"{address}:{port}",
        "health": str(entry.get("health_status", "HEALTHY")),
        "priority": priority,
        "tls": spoken.mode,
        "workload": workload,
    }
    if rule := known.protocol_rules.get(workload, {}).get(str(port)):
        made["protocol_rule"] = rule
    if spoken.expects(known.identity_of.get(workload, "")) is False:
        reason = (
            f"the client expects another identity than {known.identity_of[workload]}"
        )
        return made | {"accepts": False, "reason": reason}

    dump = known.dump_of(workload) if workload else None
    return made | (
        _inbound(source, request, dump, (address, port), spoken)
        if dump is not None
        else {}
    )


def _inbound(
    source: Source,
    request: Request,
    dump: Dump,
    at: tuple[str, int],
    spoken: tls.UpstreamTls,
) -> Json:
    """What the target's proxy says to the request."""
    listener = routing.inbound_listener(dump)
    connection = routing.Connection(
        *at, is_tls=spoken.mode != tls.PLAIN, protocols=spoken.protocols
    )
    chain = routing.filter_chain(listener, connection) if listener is not None else None

    if chain is None or not tls.is_taken(chain, spoken.mode):
        return {
            "accepts": False,
            "reason": f"its proxy takes no connection with TLS mode {spoken.mode}",
        }

    caller = Caller(
        source.identity if spoken.mode == tls.MESH else "", source.address, at[1]
    )
    manager = routing.network_filter(chain, "HttpConnectionManager")
    filters = [entry.get("typed_config", {}) for entry in chain.get("filters", ())]
    decision = decide(
        [*filters, *(_http_filters(manager) if manager is not None else ())],
        request,
        caller,
    )
    reason = "" if decision.allowed else f"AuthorizationPolicy: {decision.by}"
    return {
        "accepts": decision.allowed,
        "reason": reason,
        "limits": limits_of(manager) if manager is not None else [],
    }


def _http_filters(manager: Json) -> list[Json]:
    return [entry.get("typed_config", {}) for entry in manager.get("http_filters", ())]
