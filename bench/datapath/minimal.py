"""Hand-written Envoys of the same shape as two sidecars, with nothing that is not needed: the limit
of what a mesh can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES = "type.googleapis.com/envoy.extensions"
_OPTIONS = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"
_ROUTER = {
    "name": "router",
    "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _requests(to: Mapping[str, Any]) -> dict[str, Any]:
    """A filter that does so with every request."""
    route = {"match": {"prefix": "/"}, **to}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    manager = "filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{_TYPES}.{manager}",
            "stat_prefix": "x",
            "route_config": {"virtual_hosts": hosts},
            "http_filters": [_ROUTER],
        },
    }


def _bytes(cluster: str) -> dict[str, Any]:
    kind = f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy"
    typed = {"@type": kind, "stat_prefix": "x", "cluster": cluster}
    return {"name": "tcp", "typed_config": typed}


def _listener(port: int, listened: Mapping[str, Any], tls: Any = None) -> Any:
    chain = {"filters": [listened], **({"transport_socket": tls} if tls else {})}
    return {"name": str(port), "address": _address(port), "filter_chains": [chain]}


def _cluster(port: int, name: str, *, tls: Any = None, http2: bool = False) -> Any:
    endpoint = {"endpoint": {"address": _address(port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    spoken = "http2_protocol_options" if http2 else "http_protocol_options"
    options = {"@type": _OPTIONS, "explicit_http_config": {spoken: {}}}
    # Envoy lets 1,024 connections pass; what is compared lets all.
    most = {"max_connections": 100_000, "max_pending_requests": 100_000}
    return {
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": assignment,
        "circuit_breakers": {"thresholds": [{**most, "max_requests": 100_000}]},
        "typed_extension_protocol_options": {_OPTIONS.partition("/")[2]: options},
        **({"transport_socket": tls} if tls else {}),
    }


def _tls(kind: str, party: Any, protocols: list[str], **more: Any) -> Any:
    chain, key, root = (
        {"filename": str(file)} for file in (party.chain, party.key, party.root)
    )
    common = {
        "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
        "validation_context": {"trusted_ca": root},
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": protocols,
    }
    typed = {
        "@type": f"{_TYPES}.transport_sockets.tls.v3.{kind}",
        "common_tls_context": common,
        **more,
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


def _bootstrap(listeners: list[Any], clusters: list[Any]) -> dict[str, Any]:
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def app(port: int, length: int) -> dict[str, Any]:
    """An Envoy that answers every request at once, with so many bytes."""
    answer = {"status": 200, "body": {"inline_string": "x" * length}}
    made = _listener(port, _requests({"direct_response": answer}))
    return _bootstrap([made], [])


def client(port: int, server: int, party: Any, way: str) -> dict[str, Any]:
    """The client's proxy; `way` is `HTTP/1.1`, `HTTP/2` or `bytes`."""
    http2 = way == "HTTP/2"
    tls = _tls("UpstreamTlsContext", party, ["h2"] if http2 else [])
    to = _bytes("x") if way == "bytes" else _requests({"route": {"cluster": "x"}})
    return _bootstrap(
        [_listener(port, to)], [_cluster(server, "x", tls=tls, http2=http2)]
    )


def server(port: int, backend: int, party: Any, way: str) -> dict[str, Any]:
    """The server's."""
    protocols = [] if way == "bytes" else ["h2", "http/1.1"]
    tls = _tls(
        "DownstreamTlsContext", party, protocols, require_client_certificate=True
    )
    to = _bytes("x") if way == "bytes" else _requests({"route": {"cluster": "x"}})
    return _bootstrap([_listener(port, to, tls)], [_cluster(backend, "x")])
