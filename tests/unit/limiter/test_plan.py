"""Which limit a question meets, and under which key."""

from __future__ import annotations

import pytest
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2

from dockermesh.limiter.plan import Plan, Planner, UnreadableError
from dockermesh.model.rate_limits import CountedLimit, LimitNode, Per, Rate

FEW, MANY = Rate(1, Per.MINUTE, 1), Rate(100, Per.SECOND, 100)
_Descriptor = ratelimit_pb2.RateLimitDescriptor


def leaf(name: str, rate: Rate | None = FEW, **fields: bool) -> LimitNode:
    return LimitNode(CountedLimit(name, rate, **fields))


TREE = LimitNode(
    exact={
        ("path", "/login"): LimitNode(
            CountedLimit("login", FEW), any_value={"user": leaf("login of a user")}
        ),
        ("user", "root"): leaf("root", None),
    },
    prefixes=(
        ("path", "/static/big", leaf("big files", shared=True)),
        ("path", "/static", leaf("static")),
    ),
    any_value={"path": leaf("any path", MANY), "user": leaf("any user")},
)


def plan(*descriptors: str, planner: Planner | None = None, hits: int = 0) -> Plan:
    """Of descriptors as `key=value,key=value`."""
    asking = planner or Planner()
    if planner is None:
        asking.take({("here", "shop"): TREE})
    question = rls_pb2.RateLimitRequest(domain="shop", hits_addend=hits)
    for text in descriptors:
        entries = [part.partition("=")[::2] for part in text.split(",")]
        question.descriptors.append(
            _Descriptor(entries=[_Descriptor.Entry(key=k, value=v) for k, v in entries])
        )
    return asking.plan("here", question.SerializeToString())


def name(descriptor: str) -> str | None:
    (share,) = plan(descriptor)
    return share.limit.name if share is not None else None


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        ("path=/login", "login"),
        ("path=/login,user=ann", "login of a user"),
        # Deeper than the tree, or elsewhere: nothing is counted.
        ("path=/login,user=ann,x=y", None),
        ("path=/other,user=ann", None),
        ("other=1", None),
        ("path=/other", "any path"),
        ("path=/static/x", "static"),
        ("path=/static/big/x", "big files"),
        ("user=ann", "any user"),
        # It is named, and has no rate.
        ("user=root", None),
    ],
)
def test_the_last_entry_leads_to_the_limit(descriptor: str, expected: str) -> None:
    assert name(descriptor) == expected


def test_each_value_has_a_key_unless_they_share_one() -> None:
    def key(descriptor: str) -> bytes:
        (share,) = plan(descriptor)
        assert share is not None
        return share.key

    assert key("user=ann") != key("user=bob")
    assert key("path=/static/big/a") == key("path=/static/big/b")
    # However long a client makes it.
    assert len(key(f"user={'x' * 50_000}")) == 16
    assert key(f"user={'x' * 50_000}") != key(f"user={'x' * 50_001}")


def test_who_is_asked_and_the_domain_decide_whose_limits_count() -> None:
    planner = Planner()
    planner.take({("there", "shop"): TREE, ("here", "other"): TREE})
    assert plan("user=ann", planner=planner) == (None,)


def test_a_limit_replaces_others_by_name() -> None:
    planner = Planner()
    both = {
        "user": leaf("all"),
        "plan": LimitNode(CountedLimit("paid", MANY, replaces=("all",))),
    }
    planner.take({("here", "shop"): LimitNode(any_value=both)})
    all_users, paid = plan("user=ann", "plan=gold", planner=planner)
    assert all_users is None
    assert paid is not None


def test_a_question_may_bring_a_limit_and_count_for_several() -> None:
    (share,) = plan("user=ann", hits=3)
    assert share is not None
    assert share.hits == 3

    descriptor = _Descriptor(entries=[_Descriptor.Entry(key="k", value="v")])
    descriptor.limit.requests_per_unit, descriptor.limit.unit = 7, 3
    descriptor.hits_addend.value = 2
    question = rls_pb2.RateLimitRequest(domain="any", descriptors=[descriptor])
    (brought,) = Planner().plan("", question.SerializeToString())
    assert brought is not None
    assert brought.limit.rate == Rate(7, Per.HOUR, 7)
    assert brought.hits == 2


def test_new_limits_count_at_once() -> None:
    planner = Planner()
    assert plan("user=ann", planner=planner) == (None,)
    planner.take({("here", "shop"): TREE})
    assert plan("user=ann", planner=planner) != (None,)


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff",
        rls_pb2.RateLimitRequest().SerializeToString(),
        rls_pb2.RateLimitRequest(domain="x").SerializeToString(),
    ],
)
def test_what_is_no_question_is_refused(message: bytes) -> None:
    with pytest.raises(UnreadableError):
        Planner().plan("", message)
