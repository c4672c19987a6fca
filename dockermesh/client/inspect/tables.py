"""The tables of `dockermesh proxy-config`: columns and cell texts as istioctl's, from Envoy's proto
JSON.

Source: istio/istio `istioctl/pkg/writer/envoy`. A filter's empty field does not filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.client.inspect.dump import Json
from dockermesh.model.contract import CLUSTER_DOMAIN
from dockermesh.translate.envoy.names import BLACK_HOLE_CLUSTER, PASSTHROUGH_CLUSTER

Rows = list[list[str]]
CLUSTERS = ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"]
LISTENERS = ["ADDRESSES", "PORT", "MATCH", "DESTINATION"]
ROUTES = ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]
ENDPOINTS = ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]
_SHOWN_DOMAINS = 2
_PROTOCOLS = {
    ("http/1.0", "http/1.1", "h2c"): "App: HTTP",
    ("http/1.1", "h2c"): "App: HTTP",
    ("istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"): "App: Istio HTTP Plain",
    (
        "http/1.0",
        "http/1.1",
        "h2c",
        "istio-http/1.0",
        "istio-http/1.1",
        "istio-h2",
    ): "App: HTTP TLS",
    ("istio-peer-exchange", "istio"): "App: TCP TLS",
}


# clusters
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClusterFilter:
    """Which clusters are shown; `fqdn` is a part of the host's name."""

    fqdn: str = ""
    port: int = 0
    subset: str = ""
    direction: str = ""

    def takes(self, cluster: Json) -> bool:
        """Whether the cluster is shown."""
        direction, port, subset, host = _parts(str(cluster.get("name", "")))
        return (
            self.fqdn in host
            and self.port in {0, int(port or 0)}
            and self.subset in {"", subset}
            and self.direction in {"", direction}
        )


def cluster_rows(clusters: Iterable[Json]) -> Rows:
    """Clusters by host, subset, port and direction."""
    rows = []
    for cluster in sorted(clusters, key=lambda c: _cluster_key(str(c.get("name", "")))):
        direction, port, subset, host = _parts(str(cluster.get("name", "")))
        origin = managed_by(cluster)
        rows.append(
            [
                host,
                port or "-",
                subset or "-",
                direction or "-",
                _discovery(cluster),
                origin,
            ]
        )
    return rows


def _parts(name: str) -> tuple[str, str, str, str]:
    """Direction, port, subset and host of a cluster's name."""
    parts = name.split("|")
    is_ours = len(parts) > 3 and parts[1].isdigit()
    return (parts[0], parts[1], parts[2], parts[3]) if is_ours else ("", "", "", name)


def _cluster_key(name: str) -> tuple[str, str, int, str]:
    direction, port, subset, host = _parts(name)
    return host, subset, int(port or 0), direction


def _discovery(cluster: Json) -> str:
    if "cluster_type" in cluster:
        return str(cluster["cluster_type"].get("name", ""))
    return str(cluster.get("type", "STATIC"))


def managed_by(thing: Json) -> str:
    """`reviews.default`: the resource that a route or a cluster comes from; empty if it comes from
    none.
    """
    path = origin_of(thing)
    parts = path.split("/")
    if not path:
        return ""
    return (
        f"{parts[7]}.{parts[5]}"
        if len(parts) == 8 and parts[2] == "networking.istio.io"
        else "<unknown>"
    )


def origin_of(thing: Json) -> str:
    """The API path of the resource that a route or a cluster comes from, as translation notes it in
    the metadata.
    """
    metadata = thing.get("metadata", {}).get("filter_metadata", {}).get("istio", {})
    return str(metadata.get("config", ""))


# listeners
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListenerFilter:
    """Which listeners are shown; `kind` is HTTP, TCP, HTTP+TCP or UNKNOWN."""

    address: str = ""
    port: int = 0
    kind: str = ""

    def takes(self, listener: Json) -> bool:
        """Whether the listener is shown."""
        addresses = [a.lower() for a in _addresses(listener)]
        return (
            (not self.address or self.address.lower() in addresses)
            and self.port in {0, _port(listener)}
            and (not self.kind or self.kind.lower() == _kind(listener).lower())
        )


def listener_rows(listeners: Iterable[Json]) -> Rows:
    """Every filter chain of the listeners, by port and address."""
    rows = []
    for listener in sorted(
        listeners, key=lambda item: (_port(item), _addresses(item), _kind(item))
    ):
        chains = [(_match(chain), _leads_to(chain)) for chain in _chains(listener)]
        for match, target in sorted(chains, key=lambda pair: pair[1], reverse=True) or [
            ("ALL", "Non-HTTP/Non-TCP")
        ]:
            rows.append(
                [",".join(_addresses(listener)), str(_port(listener)), match, target]
            )

    return rows


def _chains(listener: Json) -> list[Json]:
    default = listener.get("default_filter_chain")
    return [*listener.get("filter_chains", ()), *([default] if default else [])]


def _addresses(listener: Json) -> list[str]:
    more = (
        extra.get("address", {}) for extra in listener.get("additional_addresses", ())
    )
    return [
        str(a.get("socket_address", {}).get("address", ""))
        for a in (listener.get("address", {}), *more)
    ]


def _port(listener: Json) -> int:
    return int(
        listener.get("address", {}).get("socket_address", {}).get("port_value", 0)
    )


def _kind(listener: Json) -> str:
    filters = [
        _configured(f) for chain in _chains(listener) for f in chain.get("filters", ())
    ]
    is_http = any(_is_http(config) for config in filters)
    is_tcp = any(
        _is_tcp(config) and BLACK_HOLE_CLUSTER not in str(config) for config in filters
    )
    return (
        "HTTP+TCP"
        if is_http and is_tcp
        else "HTTP"
        if is_http
        else "TCP"
        if is_tcp
        else "UNKNOWN"
    )


def _configured(network_filter: Json) -> Json:
    return dict(network_filter.get("typed_config", {}))


def _is_http(config: Json) -> bool:
    return str(config.get("@type", "")).endswith(".HttpConnectionManager")


def _is_tcp(config: Json) -> bool:
    return str(config.get("@type", "")).endswith(".TcpProxy")


def _match(chain: Json) -> str:
    match = chain.get("filter_chain_match", {})
    found = []
    if match.get("server_names"):
        found.append(f"SNI: {','.join(match['server_names'])}")
    if match.get("transport_protocol"):
        found.append(f"Trans: {match['transport_protocol']}")
    protocols = tuple(match.get("application_protocols", ()))
    if protocols:
        found.append(_PROTOCOLS.get(protocols, f"App: {','.join(protocols)}"))
    port = f":{match['destination_port']}" if match.get("destination_port") else ""
    ranges = [
        f"{r['address_prefix']}/{r.get('prefix_len', 0)}"
        for r in match.get("prefix_ranges", ())
    ]

    if ranges:
        found.append(f"Addr: {','.join(ranges)}{port}")
    elif port:
        found.append(f"Addr: *{port}")

    return "; ".join(found) or "ALL"


def _leads_to(chain: Json) -> str:
    for config in map(_configured, chain.get("filters", ())):
        if _is_http(config):
            return _http_target(config)
        if _is_tcp(config) and BLACK_HOLE_CLUSTER not in str(config):
            return _cluster_text(_tcp_target(config))
    return "Non-HTTP/Non-TCP"


def _tcp_target(config: Json) -> str:
    weighted = config.get("weighted_clusters", {}).get("clusters", ())
    return str(config.get("cluster", "")) or ",".join(c["name"] for c in weighted)


def _http_target(manager: Json) -> str:
    if "route_config" in manager:
        hosts = manager["route_config"].get("virtual_hosts", [])
        if len(hosts) == 1 and hosts[0].get("domains") == ["*"]:
            only = {
                route.get("route", {}).get("cluster", "")
                for route in hosts[0].get("routes", ())
            }
            if len(only) == 1 and "" not in only and _takes_all(hosts[0]):
                return _cluster_text(only.pop())

        return f"Inline Route: {'; '.join(_inline_host(host) for host in hosts)}"

    name = manager.get("rds", {}).get("route_config_name", "")
    return f"Route: {name}" if name else "HTTP"


def _takes_all(host: Json) -> bool:
    return any(
        route.get("match") == {"prefix": "/"} for route in host.get("routes", ())
    )


def _cluster_text(name: str) -> str:
    # BlackHoleCluster and PassthroughCluster say it themselves.
    return name if "Cluster" in name else f"Cluster: {name}"


def _inline_host(host: Json) -> str:
    domains = "/".join(host.get("domains", ()))
    routes = ", ".join(
        path_match(route.get("match", {})) for route in host.get("routes", ())
    )
    return routes if domains == "*" else f"{domains} {routes}"


# routes
# --------------------------------------------------------------------------------------------------


def route_rows(tables: Iterable[Json]) -> Rows:
    """Every route but those that pass unknown hosts through, by table."""
    rows = []
    for table in sorted(tables, key=_table_key):
        name = str(table.get("name", ""))
        for host in table.get("virtual_hosts", ()):
            start = [
                name,
                str(host.get("name", "")),
                shown_domains(host.get("domains", [])),
            ]
            routes = host.get("routes", [])
            shown = [
                r
                for r in routes
                if r.get("route", {}).get("cluster") != PASSTHROUGH_CLUSTER
            ]
            rows += [
                [*start, path_match(route.get("match", {})), managed_by(route)]
                for route in shown
            ]
            if not routes:
                rows.append([*start, "/*", "404"])

    return rows


def _table_key(table: Json) -> tuple[bool, int, str]:
    name = str(table.get("name", ""))
    return not name.isdigit(), int(name) if name.isdigit() else 0, name


def shown_domains(domains: list[str]) -> str:
    """The first two names by which a host is called, without ports and longer forms of the same."""
    if len(domains) == 1:
        return domains[0]
    named = [d for d in domains if ":" not in d or d.endswith("]")]
    known = set(named)
    short = [
        d
        for d in named
        if not any(_shorter(d, end) in known for end in (f".{CLUSTER_DOMAIN}", ".svc"))
    ]
    more = len(short) - _SHOWN_DOMAINS
    return ", ".join(short[:_SHOWN_DOMAINS]) + (
        f" + {more} more..." if more > 0 else ""
    )


def _shorter(domain: str, end: str) -> str | None:
    return domain.removesuffix(end) if domain.endswith(end) else None


def path_match(match: Mapping[str, Any]) -> str:
    """The condition on the path, without those on headers."""
    if "prefix" in match:
        return f"{match['prefix']}*"
    if "path_separated_prefix" in match:
        return f"PathPrefix:{match['path_separated_prefix']}"
    if "path" in match:
        return str(match["path"])
    if "safe_regex" in match:
        return f"regex {match['safe_regex'].get('regex', '')}"
    return ""


# endpoints
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndpointFilter:
    """Which endpoints are shown; compared without regard to case."""

    address: str = ""
    port: int = 0
    cluster: str = ""
    status: str = ""

    def takes(self, host: Json, cluster: str) -> bool:
        """Whether this endpoint of a cluster is shown."""
        address, port = _host_address(host)
        return (
            self.address.lower() in {"", address.lower()}
            and self.port in {0, port}
            and self.cluster.lower() in {"", cluster.lower()}
            and self.status.lower() in {"", _host_status(host).lower()}
        )


def endpoint_rows(statuses: Iterable[Json], wanted: EndpointFilter) -> Rows:
    """Endpoints by address, port and cluster, from Envoy's `/clusters?format=json`."""
    found = []
    for cluster in statuses:
        name = str(cluster.get("name", ""))
        for host in cluster.get("host_statuses", ()):
            if wanted.takes(host, name):
                address, port = _host_address(host)
                outlier = (
                    "FAILED"
                    if host.get("health_status", {}).get("failed_outlier_check")
                    else "OK"
                )
                found.append((address, port, name, _host_status(host), outlier))

    return [
        [f"{a}:{p}" if p else a, status, outlier, name]
        for a, p, name, status, outlier in sorted(found)
    ]


def _host_address(host: Json) -> tuple[str, int]:
    address = host.get("address", {})
    if "pipe" in address:
        return f"unix://{address['pipe'].get('path', '')}", 0
    if "envoy_internal_address" in address:
        return (
            f"envoy://{address['envoy_internal_address'].get('server_listener_name', '')}",
            0,
        )
    socket = address.get("socket_address", {})
    return str(socket.get("address", "")), int(socket.get("port_value", 0))


def _host_status(host: Json) -> str:
    return str(host.get("health_status", {}).get("eds_health_status", "UNKNOWN"))


def cluster_statuses(assignments: Iterable[Json]) -> list[Json]:
    """Endpoints of a config dump in the form of `/clusters?format=json`."""
    return [
        {
            "name": assignment.get("cluster_name", ""),
            "host_statuses": [
                {
                    "address": endpoint.get("endpoint", {}).get("address", {}),
                    "health_status": {
                        "eds_health_status": endpoint.get("health_status", "UNKNOWN")
                    },
                }
                for group in assignment.get("endpoints", ())
                for endpoint in group.get("lb_endpoints", ())
            ],
        }
        for assignment in assignments
    ]
