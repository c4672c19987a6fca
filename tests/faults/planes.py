"""One control plane, which is killed, stopped, asked to end, and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

from fault import Trial, fault
from pods import Pod

from dockermesh.xds import SECRET
from dockermesh.xds.snapshot import FIELDS

UNNOTICED = "no request fails; proxies are back and in sync"


async def resources(trial: Trial) -> dict[str, str]:
    """What every proxy of the mesh is to have, each resource by itself, without certificates."""
    found = {}
    for pod in trial.mesh.pods:
        dump = await trial.plane.page(f"/debug/config_dump?proxyID={pod.name}")
        for section in dump["configs"]:
            kind = section["@type"].rpartition(".")[2].removesuffix("ConfigDump")
            entries = next(v for k, v in section.items() if k != "@type")
            for number, entry in enumerate(entries):
                name = f"{kind} {number} of {pod.name}"
                found[name] = json.dumps(entry, sort_keys=True)
    return found


async def expect_same(trial: Trial, before: dict[str, str]) -> None:
    """Every proxy is to have what it had."""
    after = await resources(trial)
    names = before.keys() | after.keys()
    other = sorted(name for name in names if before.get(name) != after.get(name))
    trial.expect(not other, f"other resources than before: {', '.join(other[:5])}")


async def certificates(trial: Trial) -> dict[str, Any]:
    """Until when every proxy's certificate is good."""
    page = await trial.plane.page("/debug/workloads")
    return {w["name"]: w["certificate"]["expires"] for w in page["workloads"]}


async def expect_silence(trial: Trial, before: dict[str, Any]) -> None:
    """Nothing was sent since the control plane's start; but who was due for another certificate
    than the one `before` got it.
    """
    after = await certificates(trial)
    due = [name for name in after if after[name] != before.get(name)]
    metric = "dockermesh_xds_resources_sent_total"
    for type_url, kind in FIELDS.items():
        wanted = len(due) if type_url == SECRET else 0
        count = await trial.plane.metric(f'{metric}{{type="{kind}"}}')
        trial.expect(count == wanted, f"{count:.0f} {kind} sent, not {wanted}")
    if due:
        trial.note(f"{len(due)} certificates were due meanwhile")


@fault("F1", "control plane killed (SIGKILL), later started again", expects=UNNOTICED)
async def killed(trial: Trial) -> None:
    """Proxies go on with what they have; what comes back finds them up to date."""
    before, held = await resources(trial), await certificates(trial)
    trial.plane.kill()
    await asyncio.sleep(trial.size.pick(4, 300))
    await trial.plane.open()
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync again")
    await expect_same(trial, before)
    await expect_silence(trial, held)


@fault("F2", "control plane restarted at once (SIGTERM)", expects=UNNOTICED)
async def restarted(trial: Trial) -> None:
    """The same bytes and versions; long-lived connections stay."""
    before = await resources(trial)
    began = time.monotonic()
    status = await trial.plane.terminate()
    took = time.monotonic() - began
    trial.expect(status == 0, f"its exit status is {status}")
    trial.expect(took < 20, f"it took {took:.0f} s to end")
    trial.note(f"ended after {took:.1f} s (F25)")
    await trial.plane.open()
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync again")
    await expect_same(trial, before)


@fault(
    "F1a",
    "control plane stopped (SIGSTOP), later continued",
    expects="no request fails; what changed meanwhile arrives",
)
async def frozen(trial: Trial) -> None:
    """Its connections are open and silent, which is harder to notice than an end."""
    trial.plane.signal(signal.SIGSTOP)
    await asyncio.sleep(trial.size.pick(5, 90))
    trial.plane.signal(signal.SIGCONT)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync again")


@fault(
    "F26",
    "a new replica and its proxy start while the control plane is away",
    expects="no request fails; the replica serves once there is a control plane",
)
async def started_alone(trial: Trial) -> None:
    """Its proxy waits for the first configuration, and nothing goes past it meanwhile."""
    mesh = trial.mesh
    trial.plane.kill()
    pod = mesh.new_pod("shop/reviews-3", 13, {"app": "reviews", "version": "v3"})
    await pod.start()
    mesh.registrar.add(pod)
    await asyncio.sleep(trial.size.pick(2, 20))
    trial.expect(
        not mesh.traffic.answers(trial.began, "mesh").get("'200 shop/reviews-3'"),
        "it was called before its proxy had a configuration",
    )
    await trial.plane.open()

    def serves() -> bool:
        return "'200 shop/reviews-3'" in mesh.traffic.answers(trial.began, "mesh")

    await trial.heals(serves, "the new replica answers")
    mesh.registrar.drop(pod)
    await until_unused(trial, pod.name)
    pod.stop()


@fault(
    "F26a",
    "a proxy is restarted, and crashes, while the control plane is away",
    expects="no request fails but those that were in it; its replica serves on with what it had,"
    " and takes what is new afterwards",
    # Most of it is in tests/protocol, test_kept_configuration.
    in_ci=False,
)
async def restarted_alone(trial: Trial) -> None:
    """What it accepted last is kept, its certificate and its policies with it."""
    mesh = trial.mesh
    pod = mesh.new_pod(
        "shop/reviews-4", 14, {"app": "reviews", "version": "v4"}, keeps=True
    )
    await pod.start()
    assert pod.proxy is not None
    mesh.registrar.add(pod)
    await trial.heals(lambda: answers_now(trial, pod.name), "the replica answers")
    await trial.heals(
        (pod.run_dir / "kept.json.gz").exists, "its configuration is kept"
    )

    trial.plane.kill()
    ended: list[tuple[float, float]] = []
    for way in ("restart", "crash"):
        begin = time.monotonic()
        if way == "restart":
            await pod.restart_proxy()
        else:
            await pod.kill_envoy()
        ended.append((begin, time.monotonic()))
        await trial.heals(
            lambda: answers_now(trial, pod.name), f"it answers after a {way}"
        )
    is_kept = (pod.run_dir / "on-kept").exists()
    trial.expect(is_kept, "it runs on something else than what was kept")
    await asyncio.sleep(trial.size.pick(2, 60))

    await trial.plane.open()
    await trial.heals(lambda: is_served(trial, pod), "it takes what is new")
    mesh.registrar.drop(pod)
    await until_unused(trial, pod.name)
    pod.stop()
    lost = [
        s
        for s in mesh.traffic.failures(trial.began)
        if any(s.begin <= last and s.end >= first for first, last in ended)
    ]
    trial.may_fail = len(lost)
    trial.expect(len(lost) <= 8, f"{len(lost)} requests at once in one proxy")
    if lost:
        trial.note(f"{len(lost)} requests were in the proxy when it ended")


async def answers_now(trial: Trial, name: str) -> bool:
    """Whether a replica answers requests that begin now."""
    moment = time.monotonic()
    await asyncio.sleep(1)
    recent = [s for s in trial.mesh.traffic.since(moment) if s.begin >= moment]
    return any(name in s.got for s in recent)


async def is_served(trial: Trial, pod: Pod) -> bool:
    """Whether a proxy, and those of the mesh, have what the control plane has for them."""
    has_taken = not (pod.run_dir / "on-kept").exists()
    synced = pod.name in await trial.plane.synced()
    return has_taken and synced and await trial.mesh.proxies_synced()


async def until_unused(trial: Trial, name: str) -> None:
    """Wait until a replica that left the catalog gets no more requests."""

    async def quiet() -> bool:
        moment = time.monotonic()
        await asyncio.sleep(1)
        routes = ("mesh", "mesh, new connections", "gateway")
        answers = [trial.mesh.traffic.answers(moment, route) for route in routes]
        return not any(f"'200 {name}'" in found for found in answers)

    await trial.heals(quiet, f"{name} is no longer called")


@fault(
    "F8a",
    "control plane killed five times in a row, each before it is ready",
    expects=UNNOTICED,
    in_ci=False,
)
async def crash_loop(trial: Trial) -> None:
    """A start that is cut off leaves nothing behind that the next one could trip over."""
    for pause in (0.2, 0.5, 0.8, 1.1, 1.4):
        trial.plane.kill()
        trial.plane.start()
        await asyncio.sleep(pause)
    trial.plane.kill()
    await trial.plane.open()
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync again")
