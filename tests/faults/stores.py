"""Consul, which keeps what must survive: away, empty, damaged, without a leader.

That the path denied by an AuthorizationPolicy answers 403 throughout is one of the routes that are
asked all the time: an answer with 200 is a failed request.
"""

from __future__ import annotations

import asyncio
import json
import signal

from fault import Trial, fault
from mesh import DENY, Needs
from planes import until_unused
from processes import until

KEEPS = "no request fails; the denied path answers 403 throughout"
CONFIG_PREFIX = "dockermesh/config/"
DENY_KEY = f"{CONFIG_PREFIX}security.istio.io/AuthorizationPolicy/default/no-secrets"


async def stored(trial: Trial) -> bool:
    """Whether the policy is in Consul, whole."""
    raw = await trial.mesh.consul.get(f"kv/{DENY_KEY}?raw")
    return isinstance(raw, dict) and "DENY" in json.dumps(raw)


async def healthy(trial: Trial) -> bool:
    """Whether the control plane has nothing to complain about, and proxies are in sync."""
    page = await trial.plane.page("/debug/workloads")
    fine = await trial.plane.metric("dockermesh_registry_degraded") == 0
    return fine and not page["config"] and await trial.mesh.proxies_synced()


async def well(trial: Trial, within: float = 120) -> None:
    """Wait until all is as it was."""
    await trial.heals(lambda: healthy(trial), "registry and config are sound", within)
    await trial.heals(lambda: stored(trial), "the policy is in Consul", within)


async def both(trial: Trial) -> bool:
    """Whether the catalog has both replicas."""
    services = await trial.mesh.consul.get("health/service/reviews") or []
    return len(services) == 2


@fault("F18", "Consul killed (SIGKILL), started with its data", expects=KEEPS)
async def killed(trial: Trial) -> None:
    """The last catalog is served meanwhile."""
    trial.mesh.consul.kill()
    await asyncio.sleep(trial.size.pick(4, 120))
    await trial.mesh.consul.open()
    await well(trial)


@fault("F18a", "Consul stopped (SIGSTOP), later continued", expects=KEEPS, in_ci=False)
async def frozen(trial: Trial) -> None:
    """Queries hang instead of failing."""
    trial.mesh.consul.signal(signal.SIGSTOP)
    await asyncio.sleep(trial.size.pick(4, 90))
    trial.mesh.consul.signal(signal.SIGCONT)
    await well(trial)


@fault(
    "F18c",
    "the control plane starts, and a new proxy, while Consul is away",
    expects=f"{KEEPS}; both are served from the copy, which is told",
)
async def started_without(trial: Trial) -> None:
    """After the grace of a start its own copies are enough, the policies among them."""
    mesh = trial.mesh
    late = mesh.new_pod("shop/late-1", 7, {"app": "late"}, serves=False)
    await late.start()
    mesh.registrar.add(late)
    mesh.pods.append(late)
    try:
        await until(mesh.proxies_synced, "the pod is in the mesh")
        assert late.proxy is not None
        late.proxy.kill()
        await until(lambda: _copied(trial, late.name), "it is in the copy")
        trial.plane.kill()
        mesh.consul.kill()
        await trial.plane.open()
        late.proxy.start()
        await trial.heals(
            mesh.proxies_synced, "all proxies are in sync, the new one, too"
        )
        sent = await trial.plane.metric("dockermesh_xds_resources_sent_total")
        issued = await trial.plane.metric("dockermesh_certificates_issued_total")
        trial.note(
            f"{sent:.0f} resources sent, {issued:.0f} certificates signed meanwhile"
        )
        for name in ("registry", "config", "ca"):
            degraded = await trial.plane.metric(f"dockermesh_{name}_degraded")
            trial.expect(degraded == 1, f"{name}: nothing tells of the copy")
        await mesh.consul.open()
        await well(trial)
    finally:
        mesh.pods.remove(late)
        mesh.registrar.drop(late)
        late.stop()


def _copied(trial: Trial, name: str) -> bool:
    copy = trial.plane.state / "catalog.copy.json"
    return copy.exists() and name in copy.read_text()


@fault("F19", "Consul killed, started EMPTY", expects=KEEPS)
async def emptied(trial: Trial) -> None:
    """Config, CA and tokens come back from the control plane's copy, services from registrars."""
    trial.mesh.consul.kill()
    trial.mesh.consul.wipe()
    await trial.mesh.consul.open()
    await until(lambda: both(trial), "the catalog is written again")
    await well(trial)


@fault(
    "F19a",
    "Consul started EMPTY while the control plane restarts, too",
    expects=KEEPS,
)
async def both_lost(trial: Trial) -> None:
    """All that is left is the copy in the state directory."""
    trial.plane.kill()
    trial.mesh.consul.kill()
    trial.mesh.consul.wipe()
    await trial.mesh.consul.open()
    await trial.plane.open()
    await well(trial)


@fault("F10", "a policy's value in Consul's KV damaged", expects=KEEPS)
async def damaged(trial: Trial) -> None:
    """Cut off, empty, of another type: the last good content stays in force."""
    for text in ('{"spec": {"act', "", "[]", "\0\0\0"):
        await trial.mesh.consul.put(f"kv/{DENY_KEY}", text or b"")
        await trial.heals(lambda: stored(trial), f"{text!r} is repaired")
    await well(trial)


@fault("F19b", "all config keys deleted at once", expects=KEEPS)
async def wiped(trial: Trial) -> None:
    """A prefix that vanishes as a whole is a loss, not a wish."""
    await trial.mesh.consul.delete(f"kv/{CONFIG_PREFIX}?recurse")
    await well(trial)


@fault("F19c", "all of dockermesh's keys deleted at once", expects=KEEPS)
async def everything_wiped(trial: Trial) -> None:
    """Workloads, CA, tokens and history, too."""
    await trial.mesh.consul.delete("kv/dockermesh/?recurse")
    await well(trial)
    await trial.plane.apply(DENY)


@fault(
    "F20",
    "the check of one of two replicas turns critical, and passing again",
    expects="no request fails; the replica leaves and comes back",
)
async def half_critical(trial: Trial) -> None:
    """What is unhealthy gets no requests as long as there is something healthy."""
    mesh, pod = trial.mesh, trial.mesh.reviews[0]
    check = {
        "Name": "alive",
        "ID": "alive",
        "ServiceID": pod.net,
        "TTL": "30m",
        "Status": "passing",
    }
    await mesh.consul.put("agent/check/register", check)

    async def known() -> bool:
        page = await trial.plane.page("/debug/registryz")
        return "unhealthy" in json.dumps(page).lower()

    await mesh.consul.put("agent/check/fail/alive")
    await until(known, "the control plane knows")
    await unused_then_used(trial, pod.name)
    await mesh.consul.put("agent/check/deregister/alive")
    await mesh.traffic.flows()


async def unused_then_used(trial: Trial, name: str) -> None:
    """The replica is left alone while it is critical, and called again afterwards."""
    await until_unused(trial, name)
    await trial.mesh.consul.put("agent/check/pass/alive")
    begin = len(trial.mesh.traffic.seen)

    def used() -> bool:
        return any(name in seen.got for seen in trial.mesh.traffic.seen[begin:])

    await trial.heals(used, f"{name} is called again")


@fault(
    "F18b",
    "three Consul servers lose their leader",
    expects=KEEPS,
    needs=Needs(servers=3),
)
async def leaderless(trial: Trial) -> None:
    """Another is elected; the control plane's agent is a follower all the time."""
    mesh = trial.mesh
    for _ in range(trial.size.pick(1, 5)):
        leader = await mesh.consul.get("status/leader")
        number = int(str(leader).partition(":")[0].rpartition(".")[2])
        lost = mesh.servers[number - 1]
        lost.signal(signal.SIGSTOP if number == 1 else signal.SIGKILL)

        async def another(lost_leader: str = str(leader)) -> bool:
            alive = next(s for s in mesh.servers if s is not lost)  # noqa: B023
            found = await alive.get("status/leader")
            return bool(found) and found != lost_leader

        await trial.heals(another, "another leader is elected")
        if number == 1:
            lost.signal(signal.SIGCONT)
        else:
            lost.kill()
            lost.start()
        await until(mesh.consul.has_leader, "Consul has a leader")
        await well(trial)
