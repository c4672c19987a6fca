"""Proxies that misbehave, and proxies by the hundred."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import grpc
import grpc.aio
from ads import FakeProxy, fleet, raw_stream, record_of
from envoy.service.discovery.v3 import discovery_pb2
from fault import Trial, fault
from lab import HOST
from processes import XDS_PORT, until

from dockermesh.xds import CLUSTER, ENDPOINTS

ODD = "shop/odd-1"


def target(trial: Trial) -> str:
    """Where the first control plane speaks xDS."""
    return f"{trial.plane.address}:{XDS_PORT}"


async def admit(trial: Trial, *names: str) -> None:
    """Workloads for proxies that are not real; the control plane knows them afterwards."""
    for name in names:
        trial.mesh.registrar.records[name] = record_of(name, HOST)
    await trial.mesh.registrar.reconcile()

    async def known() -> bool:
        page = await trial.plane.page("/debug/workloads")
        return len(page["workloads"]) >= len(trial.mesh.registrar.records)

    await until(known, f"{len(names)} workloads are known", 120)


def dismiss(trial: Trial, *names: str) -> None:
    """They are gone."""
    for name in names:
        trial.mesh.registrar.records.pop(name, None)


def request(node: str = "", **fields: Any) -> bytes:
    """A delta request."""
    message = discovery_pb2.DeltaDiscoveryRequest(**fields)
    if node:
        domain = "default.svc.cluster.local"
        message.node.id = f"sidecar~{HOST}~{node}.default~{domain}"
    return bytes(message.SerializeToString())


async def read(call: grpc.aio.StreamStreamCall) -> Any:
    """The next response."""
    async with asyncio.timeout(60):
        raw = await call.read()
    if raw is grpc.aio.EOF:
        raise ValueError(
            f"the stream ended: {await call.code()} {await call.details()}"
        )
    return discovery_pb2.DeltaDiscoveryResponse.FromString(raw)


async def silent(call: grpc.aio.StreamStreamCall) -> bool:
    """Whether nothing more comes: a request that is surely answered is answered next."""
    await call.write(
        request(type_url=ENDPOINTS, resource_names_subscribe=["marker.nowhere"])
    )
    return list((await read(call)).removed_resources) == ["marker.nowhere"]


@fault(
    "F5",
    "10,000 names, unknown types, stale nonces and no node, again and again",
    expects="no request fails; nothing is sent for them; the memory does not grow",
)
async def nonsense(trial: Trial) -> None:
    """Of one proxy, whose stream goes on, and of others, which are refused."""
    await admit(trial, ODD)
    names = [f"nobody-{n}.example" for n in range(10_000)]
    await _one_round(trial, names)
    await asyncio.sleep(trial.size.pick(1, 60))
    before = trial.plane.rss_mib()
    for _ in range(trial.size.pick(3, 30)):
        await _one_round(trial, names)
    await asyncio.sleep(trial.size.pick(1, 60))
    after = trial.plane.rss_mib()
    trial.note(f"memory {before:.0f} MiB before, {after:.0f} MiB after")
    trial.expect(after <= before * 1.1 + 10, "its memory grew")
    dismiss(trial, ODD)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


async def _one_round(trial: Trial, names: list[str]) -> None:
    trust = trial.plane.trust
    async with raw_stream(target(trial), trust, ODD) as call:
        await call.write(
            request(ODD, type_url=ENDPOINTS, resource_names_subscribe=names)
        )
        answer = await read(call)
        trial.expect(
            sorted(answer.removed_resources) == sorted(names) and not answer.resources,
            "names that nobody has were not answered as such",
        )
        ack = request(type_url=ENDPOINTS, response_nonce=answer.nonce)
        for _ in range(100):
            await call.write(ack)
            await call.write(request(type_url=ENDPOINTS, response_nonce="stale"))
            await call.write(request(type_url="nobody.knows", response_nonce="x"))
        trial.expect(await silent(call), "nonsense was answered")
    async with raw_stream(target(trial), trust, ODD) as call:
        await call.write(request(type_url=CLUSTER, resource_names_subscribe=["*"]))
        with contextlib.suppress(grpc.aio.AioRpcError):
            sent = await call.read()
            trial.expect(sent is grpc.aio.EOF, "no node, and yet served")
        code = await call.code()
        trial.expect(code is grpc.StatusCode.INVALID_ARGUMENT, f"no node: {code}")


@fault(
    "F9",
    "unsubscribed and subscribed again, by name and by wildcard",
    expects="what is asked for again is sent again, and nothing else",
)
async def resubscribed(trial: Trial) -> None:
    """A client that says that it dropped something has to get it when it wants it again."""
    await admit(trial, ODD)
    name = "outbound|9080||reviews.service.consul"
    async with raw_stream(target(trial), trial.plane.trust, ODD) as call:
        await call.write(request(ODD, type_url=CLUSTER, resource_names_subscribe=["*"]))
        all_of = await read(call)
        await call.write(request(type_url=CLUSTER, response_nonce=all_of.nonce))
        for _ in range(trial.size.pick(5, 200)):
            await call.write(request(type_url=CLUSTER, resource_names_subscribe=[name]))
            again = await read(call)
            trial.expect([r.name for r in again.resources] == [name], "not sent again")
            await call.write(request(type_url=CLUSTER, response_nonce=again.nonce))
            await call.write(
                request(type_url=CLUSTER, resource_names_unsubscribe=[name])
            )
        await call.write(request(type_url=CLUSTER, resource_names_unsubscribe=["*"]))
        await call.write(request(type_url=CLUSTER, resource_names_subscribe=["*"]))
        names: set[str] = set()
        while name not in names or len(names) < len(all_of.resources):
            answer = await read(call)
            names |= {r.name for r in answer.resources}
            await call.write(request(type_url=CLUSTER, response_nonce=answer.nonce))
        trial.expect(
            names == {r.name for r in all_of.resources},
            "the wildcard gave something else",
        )
    dismiss(trial, ODD)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


async def fill(trial: Trial, services: int, each: int) -> None:
    """Services on nodes without agents, in Consul's transactions."""
    operations = []
    for number in range(services * each):
        name = f"bulk-{number % services}"
        node = {"Node": f"bulk-{number % 5}", "Address": "10.88.0.1"}
        service = {
            "ID": f"{name}-{number}",
            "Service": name,
            "Address": f"10.88.{number // 250 % 250}.{number % 250 + 1}",
            "Port": 80,
            "Meta": {"protocol": "http"},
        }
        if number < 5:
            operations.append({"Node": {"Verb": "set", "Node": node}})
        operations.append(
            {"Service": {"Verb": "set", "Node": node["Node"], "Service": service}}
        )
    for first in range(0, len(operations), 60):
        await trial.mesh.consul.put("txn", operations[first : first + 60])

    async def known() -> bool:
        page = json.dumps(await trial.plane.page("/debug/registryz"))
        return f'"bulk-{services - 1}.' in page

    await until(known, f"{services} services are known", 180)


async def empty(trial: Trial) -> None:
    """They are gone again."""
    for number in range(5):
        body = {"Node": f"bulk-{number}"}
        await trial.mesh.consul.put("catalog/deregister", body)


def counts(fakes: list[FakeProxy]) -> str:
    """How many proxies have everything."""
    return f"{sum(p.synced.is_set() for p in fakes)} of {len(fakes)}"


@fault(
    "F8",
    "hundreds of proxies connect at once, then the control plane restarts under them",
    expects="no request fails; all in sync again, RSS below 1.5 GB",
)
async def herd(trial: Trial) -> None:
    """What a restart means in a large mesh: they come back with all versions that they have."""
    count, services = trial.size.pick(100, 500), trial.size.pick(100, 1000)
    names = [f"herd/p-{n}" for n in range(count)]
    await fill(trial, services, 2)
    await admit(trial, *names)
    async with fleet(names, [target(trial)], trial.plane.trust) as fakes:
        first = await trial.heals(
            lambda: all(p.synced.is_set() for p in fakes), "all are in sync", 300
        )
        trial.note(
            f"{count} proxies with {services} services: {first:.1f} s at the start"
        )
        trial.plane.kill()
        for proxy in fakes:
            proxy.received = 0
        await until(
            lambda: not any(p.synced.is_set() for p in fakes), "all streams ended"
        )
        began = time.monotonic()
        trial.plane.start()
        await trial.plane.wait_ready()
        every = count + len(trial.mesh.pods)

        async def back() -> bool:
            # Told by a page that costs the control plane next to nothing.
            connected = await trial.plane.metric("dockermesh_proxies_connected")
            pending = await trial.plane.metric("dockermesh_proxies_pending")
            return connected >= every and pending == 0

        await trial.heals(back, "all are back in sync", 300)
        trial.note(
            f"{time.monotonic() - began:.1f} s after a restart,"
            f" {sum(p.received for p in fakes)} resources sent to them,"
            f" RSS {trial.plane.rss_mib():.0f} MiB"
        )
        trial.expect(trial.plane.rss_mib() < 1500, "RSS is above 1.5 GB")
    dismiss(trial, *names)
    await empty(trial)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync", 180)
