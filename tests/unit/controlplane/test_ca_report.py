"""When a step of a root rotation is safe, and what is said about certificates before they
expire.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from typing import Any

import pytest

from dockermesh.ca import Authority, Leaf, Material, Step, advance, new_material
from dockermesh.client.mesh.local_certificates import expiries
from dockermesh.controlplane.trust.ca_report import (
    ELSEWHERE,
    SETTLE,
    blockers,
    ca_report,
    renewal_warnings,
    taken_here,
)
from dockermesh.controlplane.trust.rotation import Taken
from dockermesh.model import Identity
from dockermesh.xds import (
    SECRET,
    ConnectedProxy,
    NodeInfo,
    ProxyStatus,
    SyncState,
    TypeStatus,
)

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
BEFORE = NOW - DAY / 24


def after(*steps: Step) -> Material:
    material = new_material("mesh.test", BEFORE)
    for step in steps:
        material = advance(material, step, "mesh.test", BEFORE)
    return material


def leaf_of(material: Material) -> Leaf:
    return Authority(material).issue_workload(
        Identity("mesh.test", "default", "a"), DAY
    )


def proxy(state: SyncState = SyncState.SYNCED, name: str = "shop/a-1") -> ProxyStatus:
    return ProxyStatus(
        ConnectedProxy(name, NodeInfo(id=name)), (TypeStatus(SECRET, state),)
    )


def why(step: Step, material: Material, **changes: Any) -> str:
    known: dict[str, Any] = {
        "proxies": [proxy()],
        "leaves": {},
        "running": ["shop/a-1"],
        "lifetime": DAY,
        "now": NOW,
    }
    return "; ".join(blockers(step, material, **known | changes))


def test_a_new_root_may_always_be_prepared() -> None:
    assert not why(Step.PREPARE, after(), proxies=[proxy(SyncState.NACKED)])


@pytest.mark.parametrize(
    "state", [SyncState.STALE, SyncState.NACKED, SyncState.NOT_SENT]
)
def test_the_signer_is_not_switched_before_every_proxy_trusts_the_new_root(
    state: SyncState,
) -> None:
    material = after(Step.PREPARE)
    assert not why(Step.SWITCH, material)
    assert "shop/a-1" in why(Step.SWITCH, material, proxies=[proxy(state)])
    assert "ago" in why(Step.SWITCH, material, now=BEFORE + SETTLE / 2)


def test_the_signer_is_not_switched_before_others_could_tell_of_their_proxies() -> None:
    material, both = after(Step.PREPARE), ["shop/a-1", "shop/b-1"]
    soon = {"running": both, "now": BEFORE + ELSEWHERE / 2}
    assert "shop/b-1" in why(Step.SWITCH, material, **soon)
    assert not why(Step.SWITCH, material, **soon, elsewhere=told_of("shop/b-1"))
    late = {"running": both, "now": BEFORE + ELSEWHERE}
    assert not why(Step.SWITCH, material, **late), "it may be down for good"
    waiting = Taken(late=frozenset({"shop/b-1", "shop/gone-1"}))
    said = why(Step.SWITCH, material, **late, elsewhere=waiting)
    assert said == "not yet accepted by shop/b-1, at another control plane"


def test_a_proxy_has_taken_a_step_with_its_roots_and_its_certificate() -> None:
    old, material = leaf_of(after()), after(Step.PREPARE, Step.SWITCH)
    new = {"shop/a-1": leaf_of(material)}
    both = {"shop/a-1"}
    assert taken_here(material, [proxy()], new) == Taken(confirmed=frozenset(both))
    for proxies, leaves in (
        ([proxy()], {"shop/a-1": old}),
        ([proxy(SyncState.STALE)], new),
    ):
        assert taken_here(material, proxies, leaves) == Taken(late=frozenset(both))
    assert taken_here(material, [], new) == Taken()


def told_of(*names: str) -> Taken:
    return Taken(confirmed=frozenset(names))


def test_the_old_root_is_not_forgotten_while_a_certificate_of_it_may_be_shown() -> None:
    old, material = leaf_of(after()), after(Step.PREPARE, Step.SWITCH)
    assert not why(Step.FINISH, material, leaves={"shop/a-1": leaf_of(material)})
    assert "old root" in why(Step.FINISH, material, leaves={"shop/a-1": old})
    away = why(Step.FINISH, material, running=["shop/a-1", "shop/b-1"])
    assert "shop/b-1" in away
    assert not why(
        Step.FINISH, material, running=["shop/a-1", "shop/b-1"], now=BEFORE + DAY
    ), "it has expired by then"
    told = {"running": ["shop/a-1", "shop/b-1"], "elsewhere": told_of("shop/b-1")}
    assert not why(Step.FINISH, material, **told), "another control plane has told"
    outside = {
        "proxies": [proxy(name="joined/vm-1")],
        "running": ["joined/vm-1"],
        "now": BEFORE + DAY,
    }
    assert "root.pem" in why(Step.FINISH, material, **outside), (
        "nobody but its owner can give it the new root"
    )


def report_of(material: Material, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "trust_domain": "mesh.test",
        "leaves": {},
        "issued": 0,
        "failures": 0,
        "problems": (),
        "blocked": [],
        "lifetime": DAY,
        "now": NOW,
    }
    return ca_report(material, **known | changes)


def test_the_end_of_a_root_is_announced_in_the_last_fifth_of_its_life() -> None:
    assert not report_of(after())["warnings"]
    for lifetime, text in ((10 * DAY, "expires in 1 days"), (3 * DAY, "has expired")):
        material = new_material("mesh.test", NOW - 8.5 * DAY, lifetime)
        [warning] = report_of(material)["warnings"]
        assert text in warning
        assert "ca rotate" in warning


def test_a_report_holds_no_key() -> None:
    text = json.dumps(
        report_of(after(Step.PREPARE), leaves={"shop/a-1": leaf_of(after())})
    )
    assert "PRIVATE" not in text
    assert "BEGIN" not in text


def test_an_overdue_renewal_is_told_long_before_the_certificate_expires() -> None:
    leaf = leaf_of(after())
    assert not list(renewal_warnings({"shop/a-1": leaf}, leaf.renew_at))
    early = leaf.renew_at + DAY / 12
    [warning] = renewal_warnings(
        {"shop/a-1": leaf, "shop/b-1": replace(leaf, renew_at=early)}, early
    )
    assert "shop/a-1" in warning
    assert leaf.not_after - early > DAY / 3


def test_the_end_of_a_proxys_own_certificate_is_read_from_envoys_page() -> None:
    own = {
        "subject_alt_names": [{"uri": "spiffe://m/ns/d/sa/a"}],
        "expiration_time": "2030-01-02T03:04:05Z",
    }
    others = {
        "subject_alt_names": [{"dns": "example.com"}],
        "expiration_time": "2029-01-01T00:00:00Z",
    }
    page = {
        "certificates": [
            {"ca_cert": [own]},
            {"cert_chain": [own, others]},
            {"cert_chain": [others]},
            {},
        ]
    }
    assert list(expiries(page)) == [
        datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    ]
    assert not list(expiries({}))
