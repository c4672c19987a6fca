"""Questions and answers in Envoy's protocol, and what is counted of them for metrics.

Source: Envoy's `envoy/service/ratelimit/v3/rls.proto`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from envoy.service.ratelimit.v3 import rls_pb2

from dockermesh.limiter.bucket import TICKS
from dockermesh.limiter.memory import Verdict, Verdicts, is_refused
from dockermesh.limiter.plan import Plan, Share
from dockermesh.model.contract import LIMIT_HEADER
from dockermesh.model.rate_limits import Per

_Response = rls_pb2.RateLimitResponse
_OK, _OVER = _Response.OK, _Response.OVER_LIMIT
_MOST_DETAILS = 1000
_UNITS = {per: _Response.RateLimit.Unit.Value(per.name) for per in Per}


class Answers:
    """Makes answers, and counts them by limit and outcome."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()

    def answer(self, plan: Plan, verdicts: Verdicts) -> bytes:
        """What to say about a plan."""
        refused = is_refused(plan, verdicts)
        made = _Response(overall_code=_OVER if refused else _OK)
        for share, verdict in zip(plan, verdicts, strict=True):
            if share is None or verdict is None:
                made.statuses.add(code=_OK)
                continue
            self._count(share, verdict, refused=refused)
            _add_status(made, share, verdict)
        if refused:
            _explain(made, list(_over(plan, verdicts)))
        return bytes(made.SerializeToString())

    def _count(self, share: Share, verdict: Verdict, *, refused: bool) -> None:
        outcome = "passed"
        if verdict.is_over:
            outcome = "shadow" if share.limit.shadow else "refused"
        elif refused:
            # It had room, and another limit did not.
            outcome = "spared"
        name = share.limit.name
        if share.limit.detailed:
            detailed = f"{name}_{share.key.decode(errors='replace')}".replace("\0", "_")
            # Values are the clients' own: of too many the rest is counted together.
            is_room = len(self.counted) < _MOST_DETAILS
            if is_room or (detailed, outcome) in self.counted:
                name = detailed
        self.counted[name, outcome] += 1


def _over(plan: Plan, verdicts: Verdicts) -> Iterator[tuple[Share, Verdict]]:
    for share, verdict in zip(plan, verdicts, strict=True):
        if share is None or verdict is None or share.limit.shadow:
            continue
        if verdict.is_over:
            yield share, verdict


def _add_status(
    made: rls_pb2.RateLimitResponse, share: Share, verdict: Verdict
) -> None:
    limit, rate = share.limit, share.limit.rate
    assert rate is not None
    is_told = verdict.is_over and not limit.shadow
    status = made.statuses.add(
        code=_OVER if is_told else _OK,
        limit_remaining=min(verdict.remaining, 2**32 - 1),
    )
    status.current_limit.requests_per_unit = rate.requests
    status.current_limit.unit = _UNITS[rate.per]
    status.current_limit.name = limit.name
    status.duration_until_reset.seconds = _seconds(verdict.wait)


def _explain(
    made: rls_pb2.RateLimitResponse, over: list[tuple[Share, Verdict]]
) -> None:
    """Tell who is refused when to come again, and what the first of the limits says."""
    wait = max(_seconds(verdict.wait) for _, verdict in over)
    made.response_headers_to_add.add(key="retry-after", value=str(max(1, wait)))
    limit = over[0][0].limit
    if limit.tells_name:
        made.response_headers_to_add.add(key=LIMIT_HEADER, value=limit.name)
    if limit.body:
        made.raw_body = limit.body.encode()


def _seconds(ticks: int) -> int:
    """Never too early."""
    return -(-ticks // TICKS)
