"""Changes of config and of places while requests go on."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

from fault import Trial, fault
from mesh import PORT
from processes import collection, until

TYPED = "networking.istio.io/v1"


def rule(*versions: str) -> dict[str, Any]:
    """The subsets of reviews."""
    subsets = [{"name": v, "labels": {"version": v}} for v in versions]
    return {
        "apiVersion": TYPED,
        "kind": "DestinationRule",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"host": "reviews.service.consul", "subsets": subsets},
    }


def route(version: str) -> dict[str, Any]:
    """All requests to one subset."""
    destination = {"host": "reviews.service.consul", "subset": version}
    return {
        "apiVersion": TYPED,
        "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {
            "hosts": ["reviews.service.consul"],
            "http": [{"route": [{"destination": destination}]}],
        },
    }


@fault(
    "F6",
    "subsets swapped v1, v2, v1 ... under load",
    expects="no request fails; the last word counts",
)
async def swapped(trial: Trial) -> None:
    """A subset is there before the route to it, and goes after it, without a pause between."""
    mesh, plane = trial.mesh, trial.plane
    await plane.apply(rule("v1"), route("v1"))
    for number in range(trial.size.pick(8, 100)):
        new, old = ("v2", "v1") if number % 2 == 0 else ("v1", "v2")
        await plane.apply(rule(old, new), route(new), rule(new))
        moment = time.monotonic()

        def only(new: str = new, moment: float = moment) -> bool:
            recent = [s for s in mesh.traffic.since(moment, ["mesh"]) if s.good][-5:]
            return len(recent) == 5 and all(
                f"reviews-{new[1:]}" in s.got for s in recent
            )

        await trial.heals(only, f"all requests go to {new}")
    await plane.remove(route("v1"), rule("v1"))
    await trial.heals(mesh.proxies_synced, "all proxies are in sync")


def rivals() -> list[tuple[str, dict[str, Any]]]:
    """Resources that contradict each other, with their age: keys of the KV and documents."""
    found = []
    for age in range(4):
        virtual = route(f"v{age}")
        virtual["metadata"]["name"] = f"rival-{'dbca'[age]}"
        virtual["spec"]["http"][0]["route"][0]["destination"]["host"] = (
            f"target-{age}.example"
        )
        virtual["spec"]["hosts"] = ["contested.example"]
        gateway = {
            "apiVersion": TYPED,
            "kind": "Gateway",
            "metadata": {"name": f"rival-{'cabd'[age]}", "namespace": "default"},
            "spec": {
                "selector": {"app": "edge"},
                "servers": [
                    {
                        "port": {
                            "number": 9999,
                            "name": "x",
                            "protocol": ("HTTP", "TCP", "HTTP", "TCP")[age],
                        },
                        "hosts": [f"h{age}.example"],
                    }
                ],
            },
        }
        for document in (virtual, gateway):
            meta = document["metadata"]
            meta["creationTimestamp"] = f"2026-01-0{age + 1}T00:00:00Z"
            meta["uid"] = f"00000000-0000-0000-0000-00000000000{age}"
            kind = document["kind"]
            key = f"dockermesh/config/networking.istio.io/{kind}/default/{meta['name']}"
            found.append((key, document))
    service = {
        "apiVersion": TYPED,
        "kind": "ServiceEntry",
        "metadata": {
            "name": "contested",
            "namespace": "default",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "uid": "00000000-0000-0000-0000-000000000009",
        },
        "spec": {
            "hosts": ["contested.example"],
            "resolution": "DNS",
            "ports": [{"number": PORT, "name": "http", "protocol": "HTTP"}],
        },
    }
    key = "dockermesh/config/networking.istio.io/ServiceEntry/default/contested"
    return [*found, (key, service)]


@fault(
    "F12",
    "conflicting VirtualServices and Gateways in random orders of events",
    expects="the same bytes for every proxy, whatever the order",
)
async def orders(trial: Trial) -> None:
    """Some are written, changed, deleted and written again before the order is complete."""
    chance, outputs = random.Random(12), set()
    known = rivals()
    for number in range(trial.size.pick(3, 50)):
        await _events(trial, chance, known)
        outputs.add(await _output(trial, known))
        if trial.size.is_full and number % 10 == 9:
            await trial.plane.terminate()
            await trial.plane.open()
            outputs.add(await _output(trial, known))
        await _forget(trial, known)
    trial.expect(len(outputs) == 1, f"{len(outputs)} different outputs")
    trial.expect(
        all("contested.example" in found for found in outputs), "the rivals are missing"
    )
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


async def _events(
    trial: Trial, chance: random.Random, known: list[tuple[str, dict[str, Any]]]
) -> None:
    consul = trial.mesh.consul
    order = chance.sample(known, len(known))
    for key, document in order:
        if chance.random() < 0.5:
            await consul.put(f"kv/{key}", document)
            await asyncio.sleep(chance.random() * 0.05)
            if chance.random() < 0.5:
                await consul.delete(f"kv/{key}")
        await consul.put(f"kv/{key}", document)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.2)


async def _output(trial: Trial, known: list[tuple[str, dict[str, Any]]]) -> str:
    # A write may still be under way while what it replaces is listed.
    versions = {
        key: int((await trial.mesh.consul.get(f"kv/{key}"))[0]["ModifyIndex"])
        for key, _ in known
    }

    async def all_read() -> bool:
        for key, document in known:
            if not await _is_listed(trial, document, versions[key]):
                return False
        return True

    await until(all_read, "the control plane has read all of them")
    # Twice the same, so that no push is under way.
    last = ""
    while (found := await _dumps(trial)) != last:
        last = found
        await asyncio.sleep(0.4)
    return found


async def _is_listed(trial: Trial, document: dict[str, Any], version: int = 0) -> bool:
    """Whether the control plane has it, in this version of Consul's if one is given."""
    path = f"{collection(document)}/{document['metadata']['name']}"
    status, found = await trial.plane.ask("GET", path)
    if status != 200 or not version:
        return status == 200
    return str(found["metadata"]["resourceVersion"]) == str(version)


async def _dumps(trial: Trial) -> str:
    found = []
    for pod in (trial.mesh.web, trial.mesh.edge):
        dump = await trial.plane.page(f"/debug/config_dump?proxyID={pod.name}")
        found.append(json.dumps(dump, sort_keys=True))
    return "\n".join(found)


async def _forget(trial: Trial, known: list[tuple[str, dict[str, Any]]]) -> None:
    for key, _ in known:
        await trial.mesh.consul.delete(f"kv/{key}")

    async def gone() -> bool:
        return not any([await _is_listed(trial, document) for _, document in known])

    await until(gone, "the control plane has forgotten them")


@fault(
    "F16",
    "a replica's address is reused by another workload while the catalog is stale",
    expects="the other one never answers for it; no request fails but those that were in the"
    " replica when it was killed",
)
async def reused(trial: Trial) -> None:
    """The certificate says who answers; an address does not."""
    mesh = trial.mesh
    victim = mesh.reviews[1]
    killed_from = time.monotonic()
    victim.stop()
    killed_until = time.monotonic()
    intruder = mesh.new_pod("shop/intruder-1", 3, {"app": "intruder"})
    await intruder.start()
    mesh.registrar.records[intruder.name] = intruder.record()
    # The catalog still says that reviews is at this address; only the workload is new.
    await until(lambda: _serves(trial, intruder.name), "the other one's proxy is up")
    await asyncio.sleep(trial.size.pick(3, 30))
    answered = [s for s in mesh.traffic.since(trial.began) if "intruder" in s.got]
    trial.expect(not answered, f"the other one answered {len(answered)} requests")
    mesh.registrar.drop(intruder)
    mesh.registrar.drop(victim)
    await asyncio.sleep(1)
    intruder.stop()
    moved = mesh.new_pod(victim.name, 23, victim.labels)
    await moved.start()
    mesh.registrar.add(moved)
    mesh.pods[mesh.pods.index(victim)] = mesh.reviews[1] = moved
    moment = time.monotonic()

    def used() -> bool:
        return any(moved.name in s.got for s in mesh.traffic.since(moment))

    await trial.heals(used, "the replica answers at its new address")
    # What an app may have seen is not sent again, and each route asks one after the other.
    lost = [
        s
        for s in mesh.traffic.failures(trial.began)
        if s.begin <= killed_until and s.end >= killed_from
    ]
    trial.may_fail = len(lost)
    trial.expect(len(lost) <= 4, f"{len(lost)} requests at once in one replica")
    if lost:
        trial.note(f"{len(lost)} requests were in the replica when it was killed")


async def _serves(trial: Trial, name: str) -> bool:
    return name in await trial.plane.synced()
