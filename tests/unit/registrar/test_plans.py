"""The pure decisions of the live registrar: what to list, to change, to heal, to believe and to
bury.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import pytest

from dockermesh.errors import RegistryError
from dockermesh.model import EMPTY_CATALOG, Protocol, Workload, contract
from dockermesh.registrar.attest import find_token
from dockermesh.registrar.container import Binding, Container, State, parse_time
from dockermesh.registrar.desired import desired_state
from dockermesh.registrar.heal import Action, Past, Verb, plan_healing
from dockermesh.registrar.lease import released_since
from dockermesh.registrar.mapping import Registration
from dockermesh.registrar.options import Options
from dockermesh.registrar.plan import Entry, plan_registrations
from dockermesh.registrar.stop_signals import is_stop_signal
from dockermesh.registrar.workers import KeyedWorkers
from dockermesh.registry.consul.convert import convert_entries
from dockermesh.registry.docker.catalog import build_catalog

S = 1_000_000_000
OPTIONS = Options(hostname="h", host="h", internal=True)
UP = State(status="running", running=True, started=100 * S)


def make(
    role: str,
    state: State = UP,
    *,
    container_id: str = "",
    pod: str = "p" * 64,
    **more: Any,
) -> Container:
    labels = {
        "dockermesh.io/role": role,
        "dockermesh.io/workload": "shop/web-1",
        "dockermesh.io/service": "web",
    }
    mode = "" if role == "pod" else f"container:{pod}"
    found = container_id or {"pod": "p", "proxy": "x", "app": "a"}[role] * 64
    given: dict[str, Any] = {"labels": labels, "network_mode": mode, "state": state}
    if role == "pod":
        given["networks"] = {"dockermesh": "172.28.0.7"}
    if role == "app":
        given |= {
            "exposed": ("9080/tcp",),
            "env": ("SERVICE_9080_NAME=reviews", "SERVICE_PROTOCOL=http"),
        }
    return Container(id=found, name=role, **(given | more))


def names(*containers: Container, stopping: tuple[str, ...] = ()) -> list[str]:
    return [
        r.name
        for r in desired_state(containers, OPTIONS, stopping=stopping).registrations
    ]


def state(**changes: Any) -> State:
    return dataclasses.replace(UP, **changes)


DOWN = State(status="exited", started=90 * S, finished=95 * S)


@pytest.mark.parametrize(
    ("declared", "account"),
    [("bookinfo-reviews", "bookinfo-reviews"), ("", "web"), ("../x", "web")],
)
@pytest.mark.parametrize(
    "told",
    [(), ("SERVICE_ACCOUNT=somebody-else",)],
    ids=["", "an image that claims another"],
)
def test_a_workload_and_its_endpoints_have_one_account_which_the_pod_names(
    declared: str, account: str, told: tuple[str, ...]
) -> None:
    """The workload's is in its certificate, the endpoints' is what peers accept."""
    pod, app = make("pod"), make("app")
    pod = dataclasses.replace(
        pod, labels={**pod.labels, "dockermesh.io/service-account": declared}
    )
    app = dataclasses.replace(app, env=(*app.env, *told))
    found = desired_state([pod, make("proxy"), app], OPTIONS)
    assert [w.service_account for w in found.workloads] == [account]
    catalog = build_catalog(
        found.registrations, found.workloads, EMPTY_CATALOG, domain="service.consul"
    )
    assert {
        e.service_account for s in catalog.services.values() for e in s.endpoints
    } == {account}
    assert [r.meta["dockermesh-service-account"] for r in found.registrations] == [
        account
    ]


def test_a_meshed_app_is_listed_only_while_traffic_can_reach_it() -> None:
    pod, proxy, app = make("pod"), make("proxy"), make("app")
    assert names(pod, proxy, app) == ["reviews"]
    for gone in (pod, proxy, app):
        assert names(pod, proxy, app, stopping=(gone.id,)) == []
        rest = [
            c if c is not gone else dataclasses.replace(c, state=DOWN)
            for c in (pod, proxy, app)
        ]
        assert names(*rest) == []
    assert names(make("pod", state(started=200 * S)), proxy, app) == [], (
        "stranded in the old network"
    )
    assert names(proxy, app) == [], "the pod is unknown"


def test_a_workload_keeps_its_ports_while_it_is_down_but_not_its_token() -> None:
    pod, app = make("pod"), make("app")
    tokens = {pod.incarnation: "t"}
    (workload,) = desired_state([pod, app], OPTIONS, tokens=tokens).workloads
    assert (workload.token_sha256, workload.service, workload.address) == (
        "t",
        "reviews",
        "172.28.0.7",
    )
    (down,) = desired_state(
        [make("pod", state(running=False)), make("app", DOWN)], OPTIONS, tokens=tokens
    ).workloads
    assert down.token_sha256 == ""
    assert down.ports == workload.ports
    assert [(p.service, p.port, p.protocol) for p in down.ports] == [
        ("reviews", 9080, "http")
    ]


@pytest.mark.parametrize(
    ("app", "protocol", "rule"),
    [
        ({}, "http", "declared"),
        ({"env": (), "image": "mysql"}, "mysql", "image"),
        ({"env": (), "image": "me/web"}, "auto", "sniffed"),
        ({"env": (), "exposed": ("2222/tcp",)}, "tcp", "well-known port"),
        (
            {"env": (), "image": "mailhog/mailhog", "exposed": ("8025/tcp",)},
            "auto",
            "sniffed",
        ),
    ],
)
def test_a_workload_tells_what_decided_the_protocols_of_its_ports(
    app: dict[str, Any], protocol: str, rule: str
) -> None:
    containers = [make("pod"), make("proxy"), make("app", **app)]
    found = desired_state(containers, OPTIONS)
    (workload,), (registration,) = found.workloads, found.registrations
    assert [p.protocol for p in workload.ports] == [protocol]
    assert list(workload.protocol_rules.values()) == [rule]
    # Whoever reads the registration alone takes the port for the same.
    entry = {"Node": {"Node": "n"}, "Service": _stored(registration), "Checks": []}
    (read,) = convert_entries([entry]).instances
    assert read.protocol.value == protocol


def _stored(registration: Registration) -> dict[str, Any]:
    body = registration.body()
    return body | {"Service": body["Name"]}


def test_a_gateway_knows_the_hosts_addresses_on_its_networks() -> None:
    bridges = ("172.20.0.1", "172.28.0.1")
    pod = make("pod", bridges=bridges)
    edge = dataclasses.replace(
        pod, labels={**pod.labels, contract.LABEL_KIND: "router"}
    )
    (found,) = desired_state([edge], OPTIONS).workloads
    assert found.bridges == bridges
    assert Workload.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    # To sidecars they mean nothing, and replicas on several hosts are to share what they are told.
    (found,) = desired_state([pod], OPTIONS).workloads
    assert found.bridges == ()


def test_a_workload_tells_who_calls_its_ports_past_any_proxy() -> None:
    """Under STRICT they are refused, so they have to be known before."""
    pod, app = (
        make("pod", bindings={"9080/tcp": Binding("0.0.0.0", "8080")}),
        make("app"),
    )
    probes = {
        "SERVICE_CHECK_HTTP=/": (9080,),
        "SERVICE_CHECK_GRPC=true": (9080,),
        "SERVICE_CHECK_TCP=true": (),
    }
    for probe, probed in probes.items():
        asked = dataclasses.replace(app, env=(*app.env, probe))
        (found,) = desired_state([pod, asked], OPTIONS).workloads
        assert (found.published, found.probed) == ((9080,), probed), probe
        # The control plane has a certificate to ask with, but not for gRPC.
        (found,) = desired_state(
            [pod, asked], dataclasses.replace(OPTIONS, run_checks=True)
        ).workloads
        assert found.probed == (probed if "GRPC" in probe else ()), probe
        assert Workload.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_stop_signals() -> None:
    nginx = make("app", stop_signal="SIGQUIT")
    custom = make("app", stop_signal="SIGRTMIN+3")
    assert all(is_stop_signal(nginx, s) for s in ("15", "9", "SIGTERM", "3", "2"))
    assert not any(
        is_stop_signal(nginx, s) for s in ("1", "SIGHUP", "10", "28", "", "nonsense")
    )
    assert is_stop_signal(make("app", stop_signal="SIGUSR1"), "10")
    assert is_stop_signal(custom, "37")
    assert not is_stop_signal(custom, "nonsense")


def plan(entries: list[Entry], containers: list[Container], **more: Any) -> Any:
    wanted = desired_state(containers, OPTIONS).registrations
    return plan_registrations(entries, wanted, host="h", group="shop/web-1", **more)


def entry_of(containers: list[Container], **changes: Any) -> Entry:
    (registration,) = desired_state(containers, OPTIONS).registrations
    base = Entry(registration.id, registration.fingerprint, "h", "a" * 12, "shop/web-1")
    return dataclasses.replace(base, **changes)


def test_what_is_right_is_left() -> None:
    containers = [make("pod"), make("app")]
    same = plan([entry_of(containers)], containers)
    assert same == dataclasses.replace(
        same, register=(), update=(), deregister=(), conflicts=()
    )


def test_changed_lost_and_foreign_entries() -> None:
    containers = [make("pod"), make("app")]
    assert plan([], containers).register
    assert plan([entry_of(containers, fingerprint="old")], containers).register
    assert plan([entry_of(containers, host="other")], containers).conflicts
    assert not plan([entry_of(containers, host="other")], containers).register
    stale = Entry("stale", host="h", container="b" * 12, group="shop/web-1")
    foreign = [
        dataclasses.replace(stale, id="f", host="other"),
        dataclasses.replace(stale, id="g", group="x"),
    ]
    assert plan([entry_of(containers), stale, *foreign], containers).deregister == (
        "stale",
    )
    assert plan([stale], [], retained={"b" * 64}).deregister == ()


def test_health_alone_updates_the_check() -> None:
    healthy = [make("pod"), make("app", state(health="healthy"))]
    sick = [make("pod"), make("app", state(health="unhealthy"))]
    found = plan([entry_of(healthy, status="passing")], sick)
    assert (len(found.update), found.register) == (1, ())
    assert plan([entry_of(healthy, status="passing")], healthy).update == ()
    assert plan([entry_of(healthy)], healthy).register, "the check is gone from Consul"


def planned(containers: Iterable[Container], **past: Any) -> list[Action]:
    """The plan when every pod's run is attested since it started."""
    containers = list(containers)
    attested = {c.incarnation: c.state.started for c in containers if c.role == "pod"}
    return plan_healing(containers, Past(**{"attested": attested, **past}))


def healing(*containers: Container, **past: Any) -> list[tuple[Verb, str]]:
    return [(a.verb, a.container.name) for a in planned(containers, **past)]


RESTARTED = State(
    status="running", running=True, started=200 * S, finished=195 * S, health="healthy"
)


def test_stranded_members_are_restarted_proxy_first() -> None:
    both = healing(make("pod", RESTARTED), make("app"), make("proxy"))
    assert both == [(Verb.RESTART, "proxy"), (Verb.STOP, "app")], (
        "the app ends while its proxy comes up"
    )
    inside = make("proxy", state(started=201 * S))
    assert healing(make("pod", RESTARTED), make("app"), inside) == [
        (Verb.RESTART, "app")
    ]
    waiting = make("pod", dataclasses.replace(RESTARTED, health="starting"))
    assert healing(waiting, make("app"), inside) == [(Verb.STOP, "app")]
    assert healing(make("pod", DOWN), make("app"), inside) == []
    assert healing(make("pod"), make("app"), make("proxy")) == []


def test_an_app_stops_with_its_pod_and_not_after_it() -> None:
    pod = make("pod")
    plan = planned([pod, make("app"), make("proxy")], stopping={pod.id})
    assert [(a.verb, a.container.name) for a in plan] == [(Verb.STOP, "app")]


def test_a_proxy_that_was_told_to_stop_ends_after_its_app() -> None:
    proxy = make("proxy")
    assert (
        planned([make("pod"), make("app"), proxy], stopping={proxy.id, "a" * 64}) == []
    ), "the app still finishes"
    (action,) = planned([make("pod"), make("app", DOWN), proxy], stopping={proxy.id})
    assert (action.verb, action.container, action.grace) == (Verb.STOP, proxy, 0)
    assert planned([make("pod"), make("app", DOWN), proxy]) == [], "nobody stops it"
    (alone,) = planned([make("pod"), make("app"), proxy], stopping={proxy.id})
    assert (alone.verb, alone.container, alone.grace, alone.delay > 0) == (
        Verb.STOP,
        proxy,
        0,
        True,
    )
    assert [
        a.verb
        for a in planned([make("app"), proxy], stopping={proxy.id})
        if a.container is proxy
    ] == [Verb.STOP]
    gateway = make(
        "pod", labels={"dockermesh.io/role": "pod", "dockermesh.io/kind": "router"}
    )
    assert planned([gateway, proxy], stopping={proxy.id}) == [], "it ends by itself"


@pytest.mark.parametrize(
    ("member", "started"),
    [
        (DOWN, False),  # ended 100 s before the pod did: stopped by hand
        (dataclasses.replace(DOWN, finished=190 * S), True),
        (
            dataclasses.replace(DOWN, finished=202 * S),
            True,
        ),  # was told to stop when the pod was
        (
            dataclasses.replace(DOWN, started=201 * S, finished=205 * S),
            False,
        ),  # ran in the pod's new network, and ended
        (
            dataclasses.replace(
                DOWN, error="cannot join network of a non running container: abc"
            ),
            True,
        ),
        (State(status="created"), False),  # Compose is about to start it
        (State(status="created", error="joining network namespace of container"), True),
    ],
)
def test_members_that_ended_with_their_pod_are_started(
    member: State, started: bool
) -> None:
    found = healing(make("pod", RESTARTED), make("app", member))
    assert found == ([(Verb.START, "app")] if started else [])


@pytest.mark.parametrize(
    ("proxy", "past", "found"),
    [
        (DOWN, {}, [Verb.START]),
        (DOWN, {"by_hand": {"p" * 64}}, []),
        (
            dataclasses.replace(DOWN, started=201 * S, finished=202 * S),
            {},
            [Verb.START],
        ),
        (state(started=201 * S), {}, []),
        (
            DOWN,
            {"attested": {}},
            [],
        ),  # the bootstrap of the run before may still be there
        (state(started=100 * S), {"attested": {}}, []),
        (State(status="created"), {}, []),
        (dataclasses.replace(DOWN, status="restarting", restarting=True), {}, []),
    ],
)
def test_a_proxy_runs_while_its_pod_does_unless_somebody_stopped_it(
    proxy: State, past: dict[str, Any], found: list[Verb]
) -> None:
    past = {k: {make("proxy").id} if k == "by_hand" else v for k, v in past.items()}
    assert [
        v for v, _ in healing(make("pod", RESTARTED), make("proxy", proxy), **past)
    ] == found


def test_a_proxy_that_may_have_an_old_token_is_restarted() -> None:
    pod, early = make("pod", RESTARTED), make("proxy", state(started=201 * S))
    attested = {"attested": {pod.incarnation: 202 * S}}
    assert healing(pod, early, **attested) == [(Verb.RESTART, "proxy")]
    late = make("proxy", state(started=203 * S))
    assert healing(pod, late, **attested) == []
    first = make("pod", dataclasses.replace(RESTARTED, finished=0))
    attested = {"attested": {first.incarnation: 202 * S}}
    assert healing(first, early, **attested) == [], "there was no run before"


@pytest.mark.parametrize(
    ("started", "by_hand", "found"),
    [
        (105 * S, False, [(Verb.START, "pod")]),  # a killed engine, which came up again
        (105 * S, True, []),
        (200 * S, False, []),  # stopped long before the engine came up
        (0, False, []),
    ],
)
def test_a_pod_that_ended_with_its_engine_is_started(
    started: int, by_hand: bool, found: list[tuple[Verb, str]]
) -> None:
    pod = make("pod", dataclasses.replace(DOWN, finished=100 * S))
    hand = {pod.id} if by_hand else set()
    assert healing(pod, engine_started=started, by_hand=hand) == found


def test_a_replaced_pod_is_reported() -> None:
    orphan = make("app", pod="q" * 64)
    assert healing(make("pod"), orphan) == [(Verb.REPORT, "app")]


def test_containers_without_labels_are_never_touched() -> None:
    stranger = dataclasses.replace(make("app"), labels={})
    assert healing(make("pod", RESTARTED), stranger) == []


def test_only_the_labelled_workload_is_attested() -> None:
    def line(workload: str, digest: str) -> str:
        return json.dumps(
            {"dockermesh": "attest", "workload": workload, "token_sha256": digest}
        )

    good, newer = "a" * 64, "b" * 64
    lines = [
        "noise",
        line("shop/web-1", good),
        '{broken "attest"',
        line("shop/web-1", newer),
        line("x", good),
    ]
    log = "\n".join(f"1970-01-01T00:00:0{n}Z {text}" for n, text in enumerate(lines))
    assert find_token(log, "shop/web-1") == (newer, 3 * S)
    assert find_token(
        "1970-01-01T00:00:00Z " + line("shop/other-1", good), "shop/web-1"
    ) == ("", 0)
    assert find_token(
        "1970-01-01T00:00:00Z " + line("shop/web-1", "short"), "shop/web-1"
    ) == ("", 0)


def test_unchanged_services_are_the_same_object_in_the_next_catalog() -> None:
    containers = [make("pod"), make("app")]
    desired = desired_state(containers, OPTIONS)
    first = build_catalog(
        desired.registrations, desired.workloads, EMPTY_CATALOG, domain="service.consul"
    )
    second = build_catalog(
        desired.registrations, desired.workloads, first, domain="service.consul"
    )
    service = first.services["reviews.service.consul"]
    assert second.services["reviews.service.consul"] is service
    assert service.ports[0].protocol is Protocol.HTTP
    assert first.services["web.service.consul"].endpoints == service.endpoints, (
        "Compose's name works too"
    )
    empty = build_catalog((), desired.workloads, second, domain="service.consul")
    assert empty.services["reviews.service.consul"].endpoints == ()


def test_hosts_without_a_lease_are_remembered_since_when() -> None:
    assert released_since({"a": 1.0, "b": 2.0}, ["a", "b", "c"], {"b"}, 9.0) == {
        "a": 1.0,
        "c": 9.0,
    }


def test_times() -> None:
    assert parse_time("2026-11-22T23:48:02.5Z") % S == S // 2
    assert parse_time("2026-11-22T23:48:02.123456789Z") % S == 123_456_789
    assert parse_time("1970-01-01T01:00:00+01:00") == 0
    assert parse_time("0001-01-01T00:00:00Z") == 0


async def test_workers_retry_coalesce_and_do_not_block_each_other() -> None:
    runs: dict[str, int] = {"bad": 0, "good": 0}
    stuck, reached = asyncio.Event(), asyncio.Event()

    async def handle(key: str) -> None:
        runs[key] += 1
        if key == "bad" and runs[key] < 3:
            raise RegistryError("429")
        if key == "bad":
            reached.set()
            await stuck.wait()

    workers = KeyedWorkers(handle, first=0.001, cap=0.002)
    workers.mark("bad")
    for _ in range(100):
        workers.mark("good")
    await reached.wait()
    assert runs["good"] == 1
    workers.mark("good")
    stuck.set()
    await workers.idle()
    assert runs == {"bad": 3, "good": 2}
