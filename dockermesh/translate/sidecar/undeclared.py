"""Calls to a service's virtual address at a port that it does not declare: metrics on a second
port, a debugger, a port where nobody listens.

They go to one of its endpoints, at the port that was dialled, as bytes. Which endpoints a virtual
address has is asked of a resolver inside the proxy, whose table leads from addresses to clusters.
So a service costs a line of that table, no listener, cluster or filter chain, and a change of
endpoints changes no resource of these.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import (
    address_pb2,
    extension_pb2,
    substitution_format_string_pb2,
)
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.data.dns.v3 import dns_table_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import (
    cluster_pb2 as forward_pb2,
)
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import (
    dynamic_forward_proxy_pb2 as forward_filter_pb2,
)
from envoy.extensions.filters.http.set_filter_state.v3 import (
    set_filter_state_pb2 as http_state_pb2,
)
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import (
    sni_dynamic_forward_proxy_pb2,
)
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2

from dockermesh.model import ENDPOINTS_DNS_PORT
from dockermesh.translate.clusters.circuit_breaking import thresholds
from dockermesh.translate.clusters.protocol import (
    OPTIONS_KEY,
    downstream_protocol_options,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import loopback_udp
from dockermesh.translate.envoy.dialled import CALLED_HEADER
from dockermesh.translate.envoy.listeners import filter_chain, tcp_filter
from dockermesh.translate.envoy.newer_protos import SetFilterState
from dockermesh.translate.envoy.packing import pack, seconds, uint32
from dockermesh.translate.mesh.vips import VIP_RANGE
from dockermesh.translate.sidecar.dns import table_listener
from dockermesh.xds.protobuf import serialised

_SUFFIX = "endpoints"
"""Of the names in the table, `240.240.0.5.endpoints`: an address alone is no question."""
_VIP_PREFIX = VIP_RANGE.removesuffix("0.0/16")
"""What the addresses of the range begin with, in a header."""
_TTL_S = 30
"""How long an address is used after its endpoint is gone; Envoy takes nothing shorter."""
_CONNECT_S = 10
_STATE_FILTER = "dockermesh.undeclared"


def endpoints_of(vip: str, cluster: str) -> bytes:
    """The serialised table that leads from a virtual IP to a cluster's endpoints. Tables behind
    each other are the table of all.
    """
    table = dns_table_pb2.DnsTable()
    domain = table.virtual_domains.add(name=f"{vip}.{_SUFFIX}")
    domain.answer_ttl.CopyFrom(seconds(_TTL_S))
    domain.endpoint.cluster_name = cluster
    return serialised(table)


def endpoints_listener(table: bytes) -> listener_pb2.Listener:
    """The resolver, on loopback: for each virtual IP the addresses of its endpoints."""
    return table_listener(
        names.ENDPOINTS_LISTENER, ENDPOINTS_DNS_PORT, "endpoints", table
    )


def endpoints_cluster() -> cluster_pb2.Cluster:
    """The cluster of all these calls."""
    config = forward_pb2.ClusterConfig(
        dns_cache_config=_cache(),
        # There is no TLS whose name would have to be checked.
        allow_insecure_cluster_options=True,
    )
    return cluster_pb2.Cluster(
        name=names.UNDECLARED_CLUSTER,
        cluster_type=cluster_pb2.Cluster.CustomClusterType(
            name="envoy.clusters.dynamic_forward_proxy", typed_config=pack(config)
        ),
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=seconds(_CONNECT_S),
        circuit_breakers=thresholds(),
        typed_extension_protocol_options={OPTIONS_KEY: downstream_protocol_options()},
    )


def undeclared_chain() -> Any:
    """The filter chain for virtual addresses, where no listener has the port."""
    network = ipaddress.ip_network(VIP_RANGE)
    state = SetFilterState(on_new_connection=_dialled())
    lookup = sni_dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=_cache())
    return filter_chain(
        _filter("envoy.filters.network.set_filter_state", state),
        # Its name speaks of TLS; what is said in the filter state goes before that.
        _filter("envoy.filters.network.sni_dynamic_forward_proxy", lookup),
        tcp_filter(names.UNDECLARED_CLUSTER),
        name="virtualOutbound-undeclared",
        prefix_ranges=[
            address_pb2.CidrRange(
                address_prefix=str(network.network_address),
                prefix_len=uint32(network.prefixlen),
            )
        ],
    )


def lead_requests(manager: hcm_pb2.HttpConnectionManager) -> None:
    """Let the routes of a port that some services declare as HTTP lead to the cluster, for those
    that do not.
    """
    lookup = forward_filter_pb2.FilterConfig(
        dns_cache_config=_cache(), allow_dynamic_host_from_filter_state=True
    )
    # Its settings are on the route: of all other requests nothing is noted.
    state = http_state_pb2.Config()
    router = manager.http_filters.pop()
    manager.http_filters.extend(
        [
            hcm_pb2.HttpFilter(name=_STATE_FILTER, typed_config=pack(state)),
            # It looks up nothing for requests that go to other clusters.
            hcm_pb2.HttpFilter(
                name="envoy.filters.http.dynamic_forward_proxy",
                typed_config=pack(lookup),
            ),
            router,
        ]
    )


def undeclared_route() -> route_components_pb2.Route:
    """The route of requests that were looked up by a virtual address in vain: its service does not
    declare the port.
    """
    match = route_components_pb2.RouteMatch(prefix="/")
    header = match.headers.add(name=CALLED_HEADER)
    header.string_match.prefix = _VIP_PREFIX
    route = route_components_pb2.Route(
        name="undeclared",
        match=match,
        route=route_components_pb2.RouteAction(
            cluster=names.UNDECLARED_CLUSTER, timeout=seconds(0)
        ),
    )
    state = http_state_pb2.Config(on_request_headers=_dialled())
    route.typed_per_filter_config[_STATE_FILTER].CopyFrom(pack(state))
    return route


def _cache() -> dns_cache_pb2.DnsCacheConfig:
    # Filter and cluster share it by name, and Envoy refuses two that differ.
    resolver = cares_dns_resolver_pb2.CaresDnsResolverConfig(
        resolvers=[loopback_udp(ENDPOINTS_DNS_PORT)]
    )
    resolver.dns_resolver_options.no_default_search_domain = True
    return dns_cache_pb2.DnsCacheConfig(
        name="endpoints",
        dns_lookup_family=cluster_pb2.Cluster.V4_ONLY,
        # A service that has no endpoint yet may have one in a moment.
        dns_failure_refresh_rate=cluster_pb2.Cluster.RefreshRate(
            base_interval=seconds(1), max_interval=seconds(1)
        ),
        host_ttl=seconds(60),
        dns_query_timeout=seconds(2),
        typed_dns_resolver_config=extension_pb2.TypedExtensionConfig(
            name="envoy.network.dns_resolver.cares", typed_config=pack(resolver)
        ),
    )


def _dialled() -> list[value_pb2.FilterStateValue]:
    """Which name to look up, and at which port to call what is found."""
    host = f"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%.{_SUFFIX}"
    return [
        _value("envoy.upstream.dynamic_host", host),
        _value("envoy.upstream.dynamic_port", "%DOWNSTREAM_LOCAL_PORT%"),
    ]


def _value(key: str, text: str) -> value_pb2.FilterStateValue:
    template = substitution_format_string_pb2.SubstitutionFormatString()
    template.text_format_source.inline_string = text
    return value_pb2.FilterStateValue(object_key=key, format_string=template)


def _filter(name: str, config: Any) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=name, typed_config=pack(config))
