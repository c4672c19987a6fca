"""Names of Envoy resources, exactly as Istio writes them: tools and EnvoyFilters rely on the form.

Source: Istio `pilot/pkg/model` (BuildSubsetKey) and `pilot/pkg/networking/util`.
"""

from __future__ import annotations

PASSTHROUGH_CLUSTER = "PassthroughCluster"
INBOUND_PASSTHROUGH_CLUSTER = "InboundPassthroughCluster"
BLACK_HOLE_CLUSTER = "BlackHoleCluster"
UNDECLARED_CLUSTER = "UndeclaredPortsCluster"

VIRTUAL_OUTBOUND = "virtualOutbound"
VIRTUAL_INBOUND = "virtualInbound"
DNS_LISTENER = "dns"
ENDPOINTS_LISTENER = "endpoints"
METRICS_LISTENER = "metrics"
NOT_OF_APPS = frozenset({DNS_LISTENER, ENDPOINTS_LISTENER, METRICS_LISTENER})
"""What no app sends, which Istio's proxies neither log nor filter."""
LIMITER_CLUSTER = "RateLimiterCluster"
LIMIT_PREFIX = "ratelimit.dockermesh.io/"
"""Before a limit's full name: the name of its filter."""


def outbound_cluster(host: str, port: int, subset: str = "") -> str:
    """`outbound|9080|v1|reviews.service.consul`."""
    return f"outbound|{port}|{subset}|{host}"


def sni_cluster(host: str, port: int, subset: str = "") -> str:
    """`outbound_.9080_.v1_.reviews.service.consul`: the server name that clients of the cluster ask
    for.
    """
    return f"outbound_.{port}_.{subset}_.{host}"


def inbound_cluster(port: int, spoken: str = "") -> str:
    """`inbound|9080||`; `inbound|9080|http1|` where it is known what the app is to be spoken to
    in.
    """
    return f"inbound|{port}|{spoken}|"


def gateway_route(port: int) -> str:
    """The route configuration of a gateway's HTTP port."""
    return f"http.{port}"


def listener(address: str, port: int) -> str:
    """`0.0.0.0_9080`."""
    return f"{address}_{port}"
