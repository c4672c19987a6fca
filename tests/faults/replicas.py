"""Several control planes on one Consul. A pod knows one name, which has the address of each.

Docker's DNS gives a name that several containers share all of their addresses (`compose/mesh.yaml`:
the alias `control-plane.dockermesh`), and the pod's bootstrap takes each of them as an endpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from fault import Trial, fault
from mesh import Needs
from processes import ROOT, Plane, until

TWO, THREE = Needs(planes=2), Needs(planes=3)
MOVED = "no request fails; its proxies move to another one"
OLDER = os.environ.get("FAULTS_OLDER", "eafa8816")
"""The commit whose control plane takes turns with this one's."""


def entry(name: str, host: str = "", number: int = 80) -> dict[str, Any]:
    """A resource that every proxy gets something of."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "hosts": [host or f"{name}.example"],
            "resolution": "DNS",
            "ports": [{"number": number, "name": "http", "protocol": "HTTP"}],
        },
    }


async def reaches_all(trial: Trial, by: Plane, name: str) -> None:
    """A change through one control plane is with all proxies, wherever they are."""
    await by.apply(entry(name))

    async def has() -> bool:
        page = await by.page(f"/debug/config_dump?proxyID={trial.mesh.web.name}")
        return (
            f"{name}.example" in json.dumps(page) and await trial.mesh.proxies_synced()
        )

    await trial.heals(has, f"{name} is with all proxies")
    await by.remove(entry(name))


@fault("R1", "any one of three control planes killed", expects=MOVED, needs=THREE)
async def one_killed(trial: Trial) -> None:
    """Each in turn, and a change is made while it is away."""
    mesh = trial.mesh
    for lost in mesh.planes:
        held = await lost.connected()
        lost.kill()
        await trial.heals(mesh.proxies_synced, f"{len(held)} proxies moved")
        trial.note(f"{len(held)} of {len(mesh.pods)} proxies moved from {lost.number}")
        await reaches_all(trial, mesh.running[0], f"without-{lost.number}")
        await lost.open()


@fault(
    "R2",
    "one of two control planes stopped (SIGSTOP)",
    expects=MOVED + " within 40 s (the keepalive's) and what connecting takes",
    needs=TWO,
    in_ci=False,
)
async def one_frozen(trial: Trial) -> None:
    """Nothing tells a proxy but the pings that are not answered."""
    first, second = trial.mesh.planes
    first.signal(signal.SIGSTOP)

    async def moved() -> bool:
        return await second.synced() >= {pod.name for pod in trial.mesh.pods}

    await trial.heals(moved, "all proxies moved to the other one", 150)
    first.signal(signal.SIGCONT)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


@fault(
    "R3",
    "all control planes restarted one after the other",
    expects="no request fails; nothing is sent, as nothing changed",
    needs=THREE,
)
async def rolling(trial: Trial) -> None:
    """An update of the control plane."""
    for plane in trial.mesh.planes:
        await plane.terminate()
        await plane.open()
        await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")
    sent = [
        await plane.metric("dockermesh_xds_resources_sent_total")
        for plane in trial.mesh.planes
    ]
    trial.expect(sum(sent) == 0, f"resources were sent: {sent}")


@fault(
    "R4",
    "two control planes import the same folder at once",
    expects="each resource is stored once, with one entry in the history",
    needs=TWO,
)
async def imported_once(trial: Trial) -> None:
    """Who comes second finds it there."""
    folder = trial.mesh.folder / "config"
    folder.mkdir(exist_ok=True)
    names = [f"imported-{n}" for n in range(10)]
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(entry(name)))
    for plane in trial.mesh.planes:
        plane.kill()
    for plane in trial.mesh.planes:
        plane.start()
    for plane in trial.mesh.planes:
        await plane.wait_ready()
    await until(lambda: _has(trial, names), "all of the folder is in Consul")
    # Whoever lost the race may still be at it.
    await asyncio.sleep(2)
    changes = [
        path.rpartition("/")[2]
        for path in await trial.mesh.consul.get("kv/dockermesh/history/?keys")
        if "/change/" in path and path.rpartition("/")[2] in names
    ]
    trial.expect(sorted(changes) == sorted(names), f"the history has {changes}")
    revisions = await _revisions(trial, names)
    trial.expect(set(revisions) == {1}, f"they were written several times: {revisions}")
    for file in folder.iterdir():
        file.unlink()
    await trial.plane.remove(*(entry(name) for name in names))
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


def _key(name: str) -> str:
    return f"kv/dockermesh/config/networking.istio.io/ServiceEntry/default/{name}"


async def _has(trial: Trial, names: list[str]) -> bool:
    return all([await trial.mesh.consul.get(_key(name)) for name in names])


async def _revisions(trial: Trial, names: list[str]) -> list[int]:
    found = []
    for name in names:
        [item] = await trial.mesh.consul.get(_key(name))
        found.append(1 if item["ModifyIndex"] == item["CreateIndex"] else 2)
    return found


@fault(
    "R5",
    "the root is rotated under load, each step asked of two control planes at once",
    expects="no request fails; each step is taken once",
    needs=TWO,
)
async def rotated_once(trial: Trial) -> None:
    """Of two that take the same step at the same time one is refused; both then sign alike."""
    for step in ("prepare", "switch", "finish"):
        await asyncio.sleep(3)
        await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")
        taken = 0
        for _ in range(20):
            answers = await asyncio.gather(
                *(
                    p.ask("POST", "/mesh/ca/rotate", {"step": step, "force": True})
                    for p in trial.mesh.planes
                )
            )
            taken += sum(status == 200 for status, _ in answers)
            if taken:
                break
            await asyncio.sleep(1)
        trial.expect(taken == 1, f"{step} was taken {taken} times: {answers}")
    await trial.heals(lambda: _same_roots(trial), "both have the same root")
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


async def _same_roots(trial: Trial) -> bool:
    found = [(await plane.ask("GET", "/mesh/ca"))[1] for plane in trial.mesh.planes]
    shown = {
        json.dumps([item["roots"], item["phase"]], sort_keys=True) for item in found
    }
    return len(shown) == 1


async def rotated_unforced(trial: Trial) -> None:
    """Every step is taken by another control plane, each of which has only some of the proxies."""
    mesh = trial.mesh
    late = mesh.new_pod("shop/late-1", 7, {"app": "late"}, serves=False)
    await late.start()
    mesh.registrar.add(late)
    mesh.pods.append(late)
    try:
        await trial.heals(mesh.proxies_synced, "all proxies are in sync")
        for number, step in enumerate(("prepare", "switch", "finish")):
            plane = mesh.planes[number % len(mesh.planes)]
            if step != "prepare":
                for each in mesh.planes:
                    await _refused_for(trial, each, step, late.name)
                late.go_on()
            await trial.heals(lambda p=plane: _is_safe(p), f"{step} is safe")
            if step != "finish":
                late.pause()
            _, answer = await plane.ask("POST", "/mesh/ca/rotate", {"step": step})
            trial.expect(answer.get("taken"), f"{step} is refused: {answer}")
        await trial.heals(mesh.proxies_synced, "all proxies are in sync")
        await trial.heals(lambda: _same_roots(trial), "all have the same root")
    finally:
        late.go_on()
        mesh.pods.remove(late)
        mesh.registrar.drop(late)
        late.stop()


async def _refused_for(trial: Trial, plane: Plane, step: str, name: str) -> None:
    async def is_alone() -> bool:
        """Whether only this one is waited for: the others take a moment."""
        _, answer = await plane.ask("POST", "/mesh/ca/rotate", {"step": step})
        trial.expect(not answer["taken"], f"{step} was taken without {name}")
        said = "; ".join(answer["blocked"])
        return name in said and not any(
            pod.name in said for pod in trial.mesh.pods if pod.name != name
        )

    await until(is_alone, f"{step} waits for {name} alone")


async def _is_safe(plane: Plane) -> bool:
    _, status = await plane.ask("GET", "/mesh/ca")
    return not status["blocked"]


for _key_of, _needs, _words in (("R8", TWO, "two"), ("R8a", THREE, "three")):
    fault(
        _key_of,
        f"the root is rotated with {_words} control planes, each step asked of another one,"
        " while a proxy hangs",
        expects="no request fails; no step needs force, and each waits for that proxy alone",
        needs=_needs,
        in_ci=_needs is TWO,
    )(rotated_unforced)


@fault(
    "R6",
    "two control planes note changes at once, past what the history keeps",
    expects="every change has a number of its own, and the last 100 are kept",
    needs=TWO,
    in_ci=False,
)
async def pruned(trial: Trial) -> None:
    """Pruning is done by whoever adds; two that do it at once take nothing else away."""
    rounds = trial.size.pick(60, 150)

    async def write(plane: Plane) -> None:
        for number in range(rounds):
            await plane.apply(entry(f"churn-{plane.number}", number=1000 + number))

    await asyncio.gather(*(write(plane) for plane in trial.mesh.planes))
    keys = await trial.mesh.consul.get("kv/dockermesh/history/?keys")
    folders = sorted({int(key.split("/")[2]) for key in keys})
    trial.expect(
        len(folders) <= 101, f"{len(folders)} entries are kept, from {folders[0]} on"
    )
    trial.expect(
        folders == list(range(folders[0], folders[-1] + 1)),
        "there are gaps in the numbers",
    )
    for plane in trial.mesh.planes:
        await plane.remove(entry(f"churn-{plane.number}"))
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


def older_source(folder: Path) -> Path | None:
    """The sources of an older commit; None if this checkout does not have it."""
    target = folder / "older"
    if target.exists():
        return target
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", OLDER, "dockermesh", "compose"],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        return None
    target.mkdir()
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    return target


@fault(
    "R7",
    "control planes of an older version and of this one take turns",
    expects="no request fails; each reads what the other wrote",
    needs=THREE,
    in_ci=False,
)
async def mixed_versions(trial: Trial) -> None:
    """An update, a way back, and both at the same time."""
    mesh = trial.mesh
    source = older_source(mesh.folder)
    if source is None:
        trial.note(f"left out: this checkout has no commit {OLDER}")
        return
    older = mesh.plane(4, source)
    older.state.parent.mkdir(exist_ok=True)
    await mesh.planes[0].apply(entry("by-new"))
    await older.open()
    mesh.planes.append(older)
    try:
        await until(
            lambda: _knows(older, "by-new"), "the older one reads the new one's"
        )
        await older.apply(entry("by-old"))
        for plane in mesh.planes[:3]:
            await until(lambda p=plane: _knows(p, "by-old"), "the new one reads it")
        mesh.names.addresses["control-plane.dockermesh"] = [older.address]
        for plane in mesh.planes[:3]:
            plane.kill()
        await trial.heals(mesh.proxies_synced, "all proxies are with the older one")
        for plane in mesh.planes[:3]:
            await plane.open()
        mesh.names.addresses["control-plane.dockermesh"] = [
            plane.address for plane in mesh.planes[:3]
        ]
        older.kill()
        await trial.heals(mesh.proxies_synced, "all proxies are back")
        trial.expect(await _knows(mesh.planes[0], "by-old"), "what was stored is lost")
    finally:
        older.kill()
        mesh.planes.remove(older)
        said = [x for x in older.log.read_text().splitlines() if "refused by" in x]
        if trial.violations and said:
            trial.note(f"the older one says, {len(said)} times: {said[-1][:400]}")
    await mesh.planes[0].remove(entry("by-new"), entry("by-old"))
    trial.note(f"the older one is {OLDER}")
    await trial.heals(mesh.proxies_synced, "all proxies are in sync")


async def _knows(plane: Plane, name: str) -> bool:
    path = f"/apis/networking.istio.io/v1/namespaces/default/serviceentries/{name}"
    status, _ = await plane.ask("GET", path)
    return status == 200
