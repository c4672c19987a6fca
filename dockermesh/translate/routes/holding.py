"""Retries that nobody asked for: requests and connections that no app has seen wait rather than
fail.

A request that no app has seen is safe to send again. The inbound proxy marks its answer with the
header `x-dockermesh-unreached` when it could not connect to its app; the outbound proxy and the
gateway then try another replica, or the same one until it is back. With bytes no such word goes
back: a client's proxy holds a connection until a replica's proxy takes it, and that one until its
app does.
"""

from __future__ import annotations

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2

from dockermesh.translate.envoy.connection_manager import UNREACHED_HEADER
from dockermesh.translate.envoy.listeners import CONNECT_ATTEMPTS
from dockermesh.translate.envoy.packing import pack, seconds, uint32

# So the usual 20 attempts last for about 10 s, longer than a restart.
_SHORTEST_S, _LONGEST_S = 0.05, 1.0
_FIRST_STARTS = 4
"""How much longer a server's own proxy waits for its app: a database that makes its files takes
longer than a restart, and wait scripts that only connect are past it.
"""


def retry_policy(hold_attempts: int) -> route_components_pb2.RetryPolicy:
    """Retries of a client's proxy: only what no app has seen (`numRetries` 0 turns them off)."""
    # Each of these means that nobody worked on the request. `reset` and `5xx` are not among them:
    # an app may have done the work and then failed.
    return route_components_pb2.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request,retriable-headers",
        num_retries=uint32(hold_attempts),
        retriable_headers=[
            route_components_pb2.HeaderMatcher(
                name=UNREACHED_HEADER, present_match=True
            ),
        ],
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(_SHORTEST_S), max_interval=seconds(_LONGEST_S)
        ),
        retry_host_predicate=[
            route_components_pb2.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
        # How often another endpoint is looked for; then the one that failed is tried again, which
        # is all that a service of one replica has.
        host_selection_retry_max_attempts=5,
    )


def hold_connection(proxy: tcp_proxy_pb2.TcpProxy, hold_attempts: int) -> None:
    """Have connections that no replica accepts tried again as long as requests are held."""
    if hold_attempts <= 0:
        return
    proxy.max_connect_attempts.value = max(CONNECT_ATTEMPTS, 1 + hold_attempts)
    # Without it Envoy tries all of them within a moment.
    proxy.backoff_options.base_interval.CopyFrom(seconds(_SHORTEST_S))
    proxy.backoff_options.max_interval.CopyFrom(seconds(_LONGEST_S))


def hold_for_own_app(proxy: tcp_proxy_pb2.TcpProxy, hold_attempts: int) -> None:
    """Have connections to an app whose container runs wait until it listens for the first time."""
    hold_connection(proxy, hold_attempts * _FIRST_STARTS)


def inbound_retry_policy() -> route_components_pb2.RetryPolicy:
    """Retries of the server's proxy against its own app: only what was not sent.

    Whatever the method, an app that may have seen a request gets it again only if the client's
    proxy was told so: of two proxies that repeat, one would multiply what the other was allowed.
    """
    # An app that is down is left to the clients' proxies, which know its other replicas: here only
    # the moment is bridged in which a connection closes.
    return route_components_pb2.RetryPolicy(
        retry_on="reset-before-request,connect-failure",
        num_retries=uint32(2),
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(0.005), max_interval=seconds(0.02)
        ),
    )
