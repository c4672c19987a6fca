"""Assembly, drop guard (F19), pacing (F18) and workload records: the bridge's pure parts."""

import json

import pytest

from dockermesh.model import Endpoint, Port, Protocol, Workload
from dockermesh.registry.consul.assembly import Assembly, Instances
from dockermesh.registry.consul.convert import Instance
from dockermesh.registry.consul.guard import GRACE, HOLD, DropGuard
from dockermesh.registry.consul.pacing import Pacer, retries
from dockermesh.registry.consul.records_guard import HOLD as RECORDS_HOLD
from dockermesh.registry.consul.records_guard import RecordsGuard
from dockermesh.registry.consul.workloads import WorkloadRecords, are_kept


def some(
    service: str, count: int, *, port: int = 80, compose: str = "", meshed: bool = False
) -> Instances:
    return tuple(
        Instance(
            Endpoint(
                f"10.0.{sum(service.encode()) % 250}.{n}",
                port,
                f"{service}-{n}",
                workload=f"p/{service}-{n}" if meshed else "",
            ),
            Protocol.HTTP,
            compose,
        )
        for n in range(count)
    )


def test_compose_names_unite_what_registrator_splits() -> None:
    assembly = Assembly("service.consul")
    assert assembly.put("web-80", some("web", 1, port=80, compose="web"))
    assert assembly.put("web-443", some("web", 1, port=443, compose="web"))
    services = assembly.services()
    assert set(services) == {
        "web-80.service.consul",
        "web-443.service.consul",
        "web.service.consul",
    }
    assert services["web.service.consul"].ports == (
        Port(80, Protocol.HTTP),
        Port(443, Protocol.HTTP),
    )
    assert not assembly.put("web-80", some("web", 1, port=80, compose="web"))
    assert all(assembly.services()[h] is s for h, s in services.items())


def test_a_compose_name_yields_to_the_catalogs_and_comes_back() -> None:
    assembly = Assembly("service.consul")
    assembly.put("web-80", some("web", 1, compose="Web"))
    assembly.put("web", some("other", 2))
    assert len(assembly.services()["web.service.consul"].endpoints) == 2
    assembly.put("web", ())
    assert len(assembly.services()["web.service.consul"].endpoints) == 1
    assembly.put("web-80", ())
    assert assembly.services() == {}


def test_a_snapshot_does_not_change_later_and_others_stay_the_same_object() -> None:
    assembly = Assembly("service.consul")
    assembly.put("a", some("a", 2))
    assembly.put("b", some("b", 2))
    before = assembly.services()
    assembly.put("a", some("a", 1))
    after = assembly.services()
    assert len(before["a.service.consul"].endpoints) == 2
    assert after["a.service.consul"] is not before["a.service.consul"]
    assert after["b.service.consul"] is before["b.service.consul"]


def filled(**counts: int) -> DropGuard:
    guard = DropGuard()
    for name, count in counts.items():
        guard.offer(name, some(name, count, meshed=True), {}, 0.0)
    return guard


def test_an_emptied_registry_is_held_and_then_believed() -> None:
    guard = filled(a=3, b=3, c=3)
    assert guard.offer("a", (), {}, 10.0) == []
    assert not guard.holding
    assert guard.offer("b", (), {}, 10.05) == []
    assert guard.holding
    assert guard.offer("c", (), {}, 10.1) == []
    assert guard.settle({}, 10.0 + HOLD - 0.1) == []
    assert {n for n, i in guard.settle({}, 10.2 + HOLD) if not i} == {"a", "b", "c"}
    assert not guard.holding
    assert guard.next_due() is None


def test_recovery_ends_the_hold_without_anybody_noticing() -> None:
    guard = filled(a=3, b=3)
    guard.offer("a", (), {}, 1.0)
    guard.offer("b", (), {}, 1.0)
    assert guard.holding
    assert guard.offer("a", some("a", 1, meshed=True), {}, 20.0) == []
    assert guard.offer("a", some("a", 3, meshed=True), {}, 20.0) == [
        ("a", some("a", 3, meshed=True))
    ]
    assert guard.holding
    guard.offer("b", some("b", 3, meshed=True), {}, 20.0)
    assert not guard.holding
    assert guard.settle({}, 100.0) == []


def test_new_addresses_during_a_hold_are_taken_over() -> None:
    guard = filled(a=3, b=3)
    guard.offer("a", (), {}, 1.0)
    guard.offer("b", (), {}, 1.0)
    moved = some("elsewhere", 1)
    assert guard.offer("a", moved, {}, 2.0) == [("a", moved)]


def test_one_service_leaving_is_only_graced() -> None:
    guard = filled(a=3, b=3, c=3)
    assert guard.offer("a", (), {}, 1.0) == []
    assert guard.next_due() == pytest.approx(1.0 + GRACE)
    assert guard.settle({}, 1.0 + GRACE) == [("a", ())]
    assert not guard.holding


def test_the_bigger_half_in_one_service_may_leave() -> None:
    guard = filled(a=9, b=1)
    guard.offer("a", (), {}, 1.0)
    assert not guard.holding
    assert guard.settle({}, 1.0 + GRACE) == [("a", ())]


def test_a_stopped_replica_leaves_at_once() -> None:
    guard = filled(a=3, b=3)
    assert guard.offer("a", some("a", 2, meshed=True), {}, 1.0) == [
        ("a", some("a", 2, meshed=True))
    ]


def test_small_meshes_are_not_guarded() -> None:
    guard = filled(a=2, b=1)
    assert guard.offer("a", (), {}, 1.0) == [("a", ())]
    assert guard.offer("b", (), {}, 1.0) == [("b", ())]


def test_what_the_registrar_took_away_is_not_held() -> None:
    guard = filled(a=3, b=3)
    records = {"p/gateway-1": object()}
    assert guard.offer("a", (), records, 1.0) == [("a", ())]
    assert guard.offer("b", (), records, 1.0) == [("b", ())]


def test_records_that_vanish_later_release_the_hold() -> None:
    guard = filled(a=3, b=3)
    still = {f"p/{s}-{n}": object() for s in "ab" for n in range(3)} | {
        "p/gateway-1": object()
    }
    guard.offer("a", (), still, 1.0)
    guard.offer("b", (), still, 1.0)
    assert guard.holding
    assert {n for n, _ in guard.settle({"p/gateway-1": object()}, 2.0)} == {"a", "b"}
    assert not guard.holding


def test_after_a_reset_missing_records_prove_nothing() -> None:
    guard = filled(a=3, b=3)
    guard.registry_reset(1.0)
    records = {"p/gateway-1": object()}
    assert guard.offer("a", (), records, 1.0) == []
    assert guard.offer("b", (), records, 1.0) == []
    assert guard.holding


def queries_in(seconds: float, interval: float) -> int:
    """How many queries a watch sends whose every query returns after `interval`."""
    pacer, now, count = Pacer(0.0), 0.0, 0
    while now < seconds:
        now += pacer.delay(now) + interval
        count += 1
    return count


def test_churn_is_followed_once_a_second() -> None:
    assert queries_in(60.0, 0.01) <= 60 + 8
    assert queries_in(3600.0, 0.4) <= 3600 + 130


def test_rare_changes_are_never_delayed() -> None:
    pacer = Pacer(0.0)
    assert all(pacer.delay(n * 1.1) == 0.0 for n in range(1000))
    pacer = Pacer(0.0)
    assert all(pacer.delay(n * 0.5) == 0.0 for n in range(100))


def test_backoff_grows_and_is_capped() -> None:
    backoff = retries()
    delays = [backoff.next() for _ in range(1000)]
    assert delays[0] <= 0.1 <= delays[1] <= 0.2 < delays[3]
    assert all(3.0 <= delay <= 6.0 for delay in delays[10:])
    backoff.reset()
    assert backoff.next() <= 0.1


def record(workload: Workload, index: int, key: str = "") -> dict[str, object]:
    value = json.dumps(workload.to_dict()).encode()
    return {
        "Key": key or f"dockermesh/workloads/h/{workload.name}",
        "ModifyIndex": index,
        "Value": value,
    }


def test_workload_records() -> None:
    one, two = Workload("1", "p/a-1", labels={"v": "1"}), Workload("2", "p/b-1")
    records = WorkloadRecords()
    first, skipped = records.update([record(one, 5), record(two, 6)])
    assert (first, skipped) == ({"p/a-1": one, "p/b-1": two}, {})
    second, _ = records.update([record(one, 5), record(two, 9)])
    assert second["p/a-1"] is first["p/a-1"]
    assert second["p/b-1"] is first["p/b-1"]
    assert records.update(None) == ({}, {})


def test_the_host_that_wrote_last_has_the_workload() -> None:
    old, new = Workload("1", "p/a-1", host="x"), Workload("2", "p/a-1", host="y")
    found, _ = WorkloadRecords().update(
        [
            record(new, 9, "dockermesh/workloads/a/p/a-1"),
            record(old, 5, "dockermesh/workloads/b/p/a-1"),
        ]
    )
    assert found["p/a-1"].id == "2"


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"{", b"[]", b"3", b'{"id":"1"}', b'{"id":1,"name":"p/a-1"}', b'{"id":"1","name":"p/other"}',
        b'{"id":"1","name":"p/a-1","labels":[]}', b'{"id":"1","name":"p/a-1","since":{"a":"x"}}', b'{"id":"1","name":"p/a-1","kind":"x"}', b"\xff",
        b'{"id":"1","name":"p/a-1","bridges":["0.0.0.0/0"]}', b'{"id":"1","name":"p/a-1","bridges":7}',
    ],
)  # fmt: skip
def test_broken_records_are_left_out(value: bytes | None) -> None:
    key = "dockermesh/workloads/h/p/a-1"
    found, skipped = WorkloadRecords().update(
        [
            {"Key": key, "ModifyIndex": 1, "Value": value},
            record(Workload("2", "p/b-1"), 2),
        ]
    )
    assert list(found) == ["p/b-1"]
    assert list(skipped) == [key]


def known(*names: str) -> dict[str, Workload]:
    return {name: Workload(name, name) for name in names}


def test_records_that_vanish_all_at_once_are_kept_until_they_are_back() -> None:
    guard = RecordsGuard()
    guard.take(known("a", "b"), 0)
    guard.take({}, 1)
    assert guard.workloads(2) == known("a", "b") and guard.holding
    changed = {"a": Workload("another pod", "a")}
    guard.take(changed, 3)
    assert guard.workloads(4) == changed | known("b")
    guard.take(known("a", "b"), 5)
    assert guard.workloads(6) == known("a", "b") and not guard.holding
    assert guard.next_due() is None


def test_records_that_were_taken_away_go_at_once_with_their_endpoints() -> None:
    """All of a mesh's last project at once: the registrar's mark is still there."""
    guard = RecordsGuard()
    guard.take(known("a", "b"), 0)
    guard.take({}, 1, are_kept=True)
    assert guard.workloads(1) == {} and not guard.holding

    endpoints = filled(a=3, b=3)
    endpoints.believes_none = True
    assert endpoints.offer("a", (), {}, 10.0) == [("a", ())]
    assert endpoints.offer("b", (), {}, 10.0) == [("b", ())]


def test_the_mark_is_no_record() -> None:
    mark = {"Key": "dockermesh/workloads/h/.kept", "ModifyIndex": 3, "Value": b"{}"}
    assert WorkloadRecords().update([mark]) == ({}, {})
    assert are_kept([mark])
    assert not are_kept(None)


def test_records_that_do_not_come_back_are_given_up() -> None:
    guard = RecordsGuard()
    guard.take(known("a", "b"), 0)
    guard.take({}, 1)
    guard.take(known("a"), 2)
    assert guard.next_due() == 1 + RECORDS_HOLD
    assert guard.workloads(1 + RECORDS_HOLD) == known("a")
    assert not guard.holding


def test_a_record_that_goes_alone_goes_at_once() -> None:
    guard = RecordsGuard()
    guard.take(known("a", "b"), 0)
    guard.take(known("a"), 1)
    assert guard.workloads(1) == known("a") and not guard.holding


def test_what_a_registry_that_went_back_does_not_have_is_kept() -> None:
    guard = RecordsGuard()
    guard.take(known("a", "b"), 0)
    guard.registry_reset(1)
    guard.take(known("a"), 1)
    assert guard.workloads(2) == known("a", "b")
    assert guard.workloads(1 + RECORDS_HOLD) == known("a")
