"""One control plane, which is killed, stopped, asked to end, and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

from fault import Trial, fault

UNNOTICED = "no request fails; proxies are back and in sync"


async def versions(trial: Trial) -> dict[str, Any]:
    """What every proxy of the mesh is to have, as bytes and as versions."""
    found = {}
    for pod in trial.mesh.pods:
        dump = await trial.plane.page(f"/debug/config_dump?proxyID={pod.name}")
        found[pod.name] = json.dumps(dump, sort_keys=True)
    return found


async def sent(trial: Trial) -> float:
    """How many resources the control plane sent to proxies since its start."""
    return await trial.plane.metric("dockermesh_xds_resources_sent_total")


@fault("F1", "control plane killed (SIGKILL), later started again", expects=UNNOTICED)
async def killed(trial: Trial) -> None:
    """Proxies go on with what they have; what comes back finds them up to date."""
    before = await versions(trial)
    trial.plane.kill()
    await asyncio.sleep(trial.size.pick(4, 300))
    await trial.plane.open()
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync again")
    trial.expect(await versions(trial) == before, "other resources than before")
    trial.expect(await sent(trial) == 0, "resources were sent, though nothing changed")


@fault("F2", "control plane restarted at once (SIGTERM)", expects=UNNOTICED)
async def restarted(trial: Trial) -> None:
    """The same bytes and versions; long-lived connections stay."""
    before = await versions(trial)
    began = time.monotonic()
    status = await trial.plane.terminate()
    took = time.monotonic() - began
    trial.expect(status == 0, f"its exit status is {status}")
    trial.expect(took < 20, f"it took {took:.0f} s to end")
    trial.note(f"ended after {took:.1f} s (F25)")
    await trial.plane.open()
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync again")
    trial.expect(await versions(trial) == before, "other resources than before")


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
