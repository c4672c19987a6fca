"""When a client's proxy sends a request again: by the mesh's default, or as a rule says."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import (
    previous_priorities_config_pb2,
)

from dockermesh.config.api.virtual_service import HTTPRetry
from dockermesh.translate.envoy.connection_manager import UNREACHED_HEADER
from dockermesh.translate.envoy.packing import pack, seconds, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.routes.holding import retry_policy

_DEFAULT_ON = (
    "connect-failure,refused-stream,unavailable,cancelled,reset-before-request"
)
_BY_HEADERS = "retriable-headers"
_BACK_OFF_S = 0.025  # Envoy's and Istio's default
# The server's proxy answers 503 when its app does not accept: to the client that is a failed
# connection.
_COVERS_UNREACHED = frozenset({"connect-failure", "5xx", "gateway-error"})


def retries(
    wanted: HTTPRetry | None,
    settings: MeshSettings,
    *,
    is_hashed: bool,
    is_mesh_alone: bool,
) -> Any:
    """The retry policy of a route; None if nothing is sent again.

    `is_mesh_alone`: proxies of the mesh answer, by their certificates. Of nobody else is it
    believed that no app saw the request: an app that says so would be sent it again and again.
    `is_hashed`: the endpoint follows from the request, so one that failed cannot be avoided.
    """
    # Retries that somebody asked for take the place of holding, `attempts: 0` included.
    wanted = wanted if wanted is not None else settings.retries
    if wanted is not None:
        policy = _retries(wanted, is_hashed=is_hashed) if wanted.attempts > 0 else None
    else:
        policy = _holding(settings.hold_attempts, is_hashed=is_hashed)
    if policy is not None and not is_mesh_alone:
        _believe_no_mark(policy)
    return policy


def _holding(attempts: int, *, is_hashed: bool) -> Any:
    if not attempts:
        return None
    policy = retry_policy(attempts)
    if is_hashed:
        del policy.retry_host_predicate[:]
        policy.ClearField("host_selection_retry_max_attempts")

    return policy


def _believe_no_mark(policy: route_components_pb2.RetryPolicy) -> None:
    kept = [h for h in policy.retriable_headers if h.name != UNREACHED_HEADER]
    del policy.retriable_headers[:]
    policy.retriable_headers.extend(kept)
    conditions = policy.retry_on.split(",")
    policy.retry_on = ",".join(c for c in conditions if kept or c != _BY_HEADERS)


def _retries(wanted: HTTPRetry, *, is_hashed: bool) -> route_components_pb2.RetryPolicy:
    policy = route_components_pb2.RetryPolicy(num_retries=uint32(wanted.attempts))
    _set_conditions(policy, wanted.retry_on or _DEFAULT_ON)

    if wanted.per_try_timeout is not None:
        policy.per_try_timeout.CopyFrom(seconds(wanted.per_try_timeout.total_seconds()))
    base = wanted.backoff.total_seconds() if wanted.backoff is not None else _BACK_OFF_S
    policy.retry_back_off.base_interval.CopyFrom(seconds(base))
    policy.retry_back_off.max_interval.CopyFrom(seconds(base * 10))

    if wanted.retry_ignore_previous_hosts is not False and not is_hashed:
        policy.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
        )
        policy.host_selection_retry_max_attempts = 5

    # Istio's setting: after every second try the priorities that failed are left out.
    if wanted.retry_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.CopyFrom(
            pack(
                previous_priorities_config_pb2.PreviousPrioritiesConfig(
                    update_frequency=2
                )
            )
        )

    return policy


def _set_conditions(policy: route_components_pb2.RetryPolicy, retry_on: str) -> None:
    """Set what is sent again, from Istio's list of conditions and statuses."""
    listed = [part.strip() for part in retry_on.split(",") if part.strip()]
    codes = [int(part) for part in listed if part.isascii() and part.isdigit()]
    names = [part for part in listed if not part.isdigit()]

    # Envoy has statuses in a field of their own, which counts only with the condition that says so.
    if codes:
        names.append("retriable-status-codes")
        policy.retriable_status_codes.extend(codes)

    if _COVERS_UNREACHED.intersection(names):
        names.append("retriable-headers")
        policy.retriable_headers.add(name=UNREACHED_HEADER, present_match=True)

    policy.retry_on = ",".join(dict.fromkeys(names))
