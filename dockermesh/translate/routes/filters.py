"""What HTTP filters do on one route: injected faults and CORS, as per-route configuration of the
filters.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.type.v3 import percent_pb2

from dockermesh.config.api.common import GRPC_STATUSES, Percent
from dockermesh.config.api.virtual_service import (
    CorsPolicy,
    FaultAbort,
    FaultDelay,
    HTTPFaultInjection,
    HTTPRoute,
    UnmatchedPreflights,
)
from dockermesh.translate.envoy.connection_manager import CORS_FILTER, FAULT_FILTER
from dockermesh.translate.envoy.packing import boolean, pack, seconds
from dockermesh.translate.envoy.text_match import string_matcher


def fraction(
    percent: Percent | None, *, default: float
) -> percent_pb2.FractionalPercent:
    """A share, exact to a millionth."""
    value = default if percent is None else percent.value
    return percent_pb2.FractionalPercent(
        numerator=min(1_000_000, max(0, round(value * 10_000))),
        denominator=percent_pb2.FractionalPercent.MILLION,
    )


def apply_filters(route: Any, rule: HTTPRoute) -> None:
    """Set the rule's faults and CORS policy on the route."""
    # The fault filter comes before the router: retries and the timeout of this route never see what
    # it does, and an aborted request is not mirrored (as in Istio).
    fault = _fault(rule.fault)
    if fault is not None:
        route.typed_per_filter_config[FAULT_FILTER].CopyFrom(pack(fault))
    if rule.cors_policy is not None:
        route.typed_per_filter_config[CORS_FILTER].CopyFrom(
            pack(_cors(rule.cors_policy))
        )


def _fault(wanted: HTTPFaultInjection | None) -> fault_pb2.HTTPFault | None:
    """The fault; None if no request would be hit (a missing percentage is 0, as in Istio)."""
    if wanted is None:
        return None
    fault = fault_pb2.HTTPFault()
    if wanted.delay is not None:
        _add_delay(fault, wanted.delay)
    if wanted.abort is not None:
        _add_abort(fault, wanted.abort)
    return fault if fault.ListFields() else None


def _add_delay(fault: fault_pb2.HTTPFault, wanted: FaultDelay) -> None:
    delay = wanted.fixed_delay
    share = fraction(wanted.percentage, default=0)
    if delay is None or not share.numerator:
        return
    fault.delay.CopyFrom(
        common_fault_pb2.FaultDelay(
            fixed_delay=seconds(delay.total_seconds()), percentage=share
        )
    )


def _add_abort(fault: fault_pb2.HTTPFault, wanted: FaultAbort) -> None:
    share = fraction(wanted.percentage, default=0)
    if not share.numerator:
        return
    # Envoy refuses the route with any other status.
    if wanted.http_status is not None and 200 <= wanted.http_status < 600:
        fault.abort.http_status = wanted.http_status
    elif wanted.grpc_status is not None and _grpc_code(wanted.grpc_status) is not None:
        fault.abort.grpc_status = _grpc_code(wanted.grpc_status)
    else:
        return
    fault.abort.percentage.CopyFrom(share)


def _grpc_code(text: str) -> int | None:
    name = text.strip().upper()
    if name in GRPC_STATUSES:
        return GRPC_STATUSES.index(name)
    return (
        int(name)
        if name.isascii() and name.isdigit() and int(name) < len(GRPC_STATUSES)
        else None
    )


def _cors(wanted: CorsPolicy) -> cors_pb2.CorsPolicy:
    policy = cors_pb2.CorsPolicy(
        allow_origin_string_match=[
            string_matcher(origin) for origin in wanted.allow_origins
        ],
        allow_methods=",".join(wanted.allow_methods),
        allow_headers=",".join(wanted.allow_headers),
        expose_headers=",".join(wanted.expose_headers),
        forward_not_matching_preflights=boolean(
            wanted.unmatched_preflights is not UnmatchedPreflights.IGNORE
        ),
        # 100 of a hundred, the denominator of a fraction that names none.
        filter_enabled=base_pb2.RuntimeFractionalPercent(
            default_value=percent_pb2.FractionalPercent(numerator=100)
        ),
    )
    if wanted.max_age is not None:
        policy.max_age = str(int(wanted.max_age.total_seconds()))
    if wanted.allow_credentials is not None:
        policy.allow_credentials.CopyFrom(boolean(wanted.allow_credentials))

    return policy
