"""Retries that nobody asked for: requests that no app has seen wait rather than fail.

A request that no app has seen is safe to send again. The inbound proxy marks its answer with the
header `x-dockermesh-unreached` when it could not connect to its app; the outbound proxy and the
gateway then try another replica, or the same one until it is back.
"""

from __future__ import annotations

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2

from dockermesh.translate.envoy.connection_manager import UNREACHED_HEADER
from dockermesh.translate.envoy.packing import pack, seconds, uint32


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
        # So the usual 20 attempts last for about 10 s, longer than a restart.
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(0.05), max_interval=seconds(1)
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


def inbound_retry_policy(*, is_idempotent: bool) -> route_components_pb2.RetryPolicy:
    """Retries of the server's proxy against its own app.

    An app that stops closes idle connections; a request already on its way there is sent again when
    its method allows (RFC 9110 section 9.2.2), and otherwise only if nothing of it was sent.
    """
    # An app that is down is left to the clients' proxies, which know its other replicas: here only
    # the moment is bridged in which a connection closes.
    return route_components_pb2.RetryPolicy(
        retry_on="reset,connect-failure"
        if is_idempotent
        else "reset-before-request,connect-failure",
        num_retries=uint32(2),
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(0.005), max_interval=seconds(0.02)
        ),
    )
