"""Whoever looks is told that something is wrong: in what `ps` and `doctor` print, which is the page
`/debug/workloads`, and in a metric.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ads import raw_stream
from fault import Trial, fault
from google.rpc import status_pb2
from lab import run
from mesh import DENY
from processes import until
from proxies import admit, dismiss, read, request, target
from stores import CONFIG_PREFIX, DENY_KEY, healthy

from dockermesh.xds import CLUSTER

WITHIN_S = 5.0
BUSY = 3
"""So many times as long it may take on a busy machine."""
ODD = "told/odd-1"
Shown = Callable[[dict[str, Any]], object]


async def told(trial: Trial, what: str, shown: Shown, metric: str) -> None:
    """Wait until a page and a metric say so."""

    async def is_told() -> bool:
        page = await trial.plane.page("/debug/workloads")
        return bool(shown(page)) and await trial.plane.metric(metric) > 0

    try:
        took = await until(is_told, f"{what} is told", 60)
    except TimeoutError as error:
        trial.violations.append(str(error))
        return
    trial.note(f"{what}: {took:.1f} s")
    trial.expect(took <= WITHIN_S * BUSY, f"{what} is told after {took:.1f} s")


@fault(
    "TOLD",
    "Consul away or hanging, values damaged or refused, disks full or read-only, registrations"
    " refused, proxies that refuse or are not there",
    expects="no request fails; each is told within 5 s, in `ps`, in `doctor` and by a metric",
)
async def every_state(trial: Trial) -> None:
    """One after the other, each mended before the next."""
    await _consul(trial)
    await _config(trial)
    await _disk(trial)
    await _proxies(trial)
    await trial.heals(lambda: _sound(trial), "nothing is told any more", 120)


async def _sound(trial: Trial) -> bool:
    page = await trial.plane.page("/debug/workloads")
    is_told = page["host"] or page["refused"] or page["warnings"]
    return not is_told and await healthy(trial)


async def _consul(trial: Trial) -> None:
    consul, metric = trial.mesh.consul, "dockermesh_registry_degraded"
    consul.kill()
    await told(trial, "Consul is away", lambda page: page["degraded"], metric)
    await consul.open()
    await trial.heals(lambda: _sound(trial), "Consul is back", 120)

    consul.signal(signal.SIGSTOP)
    await told(trial, "Consul hangs", lambda page: page["degraded"], metric)
    consul.signal(signal.SIGCONT)
    await trial.heals(lambda: _sound(trial), "Consul goes on", 120)


async def _config(trial: Trial) -> None:
    consul = trial.mesh.consul
    await consul.put(f"kv/{DENY_KEY}", '{"spec": {}}')
    await told(
        trial,
        "a damaged value",
        lambda page: page["config"],
        "dockermesh_config_damaged",
    )
    await trial.plane.apply(DENY)
    await trial.heals(lambda: _sound(trial), "the value is repaired", 60)

    key = f"kv/{CONFIG_PREFIX}security.istio.io/AuthorizationPolicy/default/newer"
    rules = [{"to": [{"operation": {"ofAnotherVersion": ["x"]}}]}]
    odd = {"selector": {"matchLabels": {"app": "nobody"}}, "rules": rules}
    metadata = {"name": "newer", "namespace": "default"}
    await consul.put(key, {**DENY, "metadata": metadata, "spec": odd})
    await told(
        trial,
        "a policy of another version",
        lambda page: page["config"],
        "dockermesh_config_refused",
    )
    await consul.delete(key)
    await trial.heals(lambda: _sound(trial), "the policy is gone", 60)


async def _disk(trial: Trial) -> None:
    state, metric = str(trial.plane.state), "dockermesh_state_degraded"
    token = trial.plane.token
    run("mount", "--bind", state, state)
    run("mount", "-o", "remount,ro,bind", state)
    await told(trial, "a read-only disk", lambda page: page["host"], metric)
    run("umount", state)
    await trial.heals(lambda: _sound(trial), "the disk can be written", 60)

    # What is there is hidden meanwhile, and there again afterwards.
    run("mount", "-t", "tmpfs", "-o", "size=64k", "none", state)
    (trial.plane.state / "api.token").write_text(token)
    run("sh", "-c", f"cat /dev/zero > {state}/filling || true")
    await told(trial, "a full disk", lambda page: page["host"], metric)
    run("umount", state)
    await trial.heals(lambda: _sound(trial), "the disk has room", 60)


async def _proxies(trial: Trial) -> None:
    registrar = trial.mesh.registrar
    registrar.services["impostor"] = {
        "ID": "impostor",
        "Name": "reviews",
        "Address": "10.99.9.9",
        "Port": 80,
    }
    await told(
        trial,
        "a refused registration",
        lambda page: page["refused"],
        "dockermesh_registrations_refused",
    )
    registrar.services.pop("impostor")

    await admit(trial, ODD)
    await told(
        trial,
        "a proxy that is not there",
        lambda page: _state(page) == "NOT CONNECTED",
        "dockermesh_proxies_missing",
    )
    async with _refusing(trial):
        await told(
            trial,
            "a proxy that refuses",
            lambda page: _state(page) == "NACKED",
            "dockermesh_proxies_nacked",
        )
    dismiss(trial, ODD)


def _state(page: dict[str, Any]) -> str:
    found: dict[str, str] = {w["name"]: w["xds"] for w in page["workloads"]}
    return found.get(ODD, "")


@asynccontextmanager
async def _refusing(trial: Trial) -> AsyncIterator[None]:
    async with raw_stream(target(trial), trial.plane.trust, ODD) as call:
        await call.write(request(ODD, type_url=CLUSTER, resource_names_subscribe=["*"]))
        answer = await read(call)
        refusal = status_pb2.Status(code=3, message=json.dumps("not like this"))
        await call.write(
            request(type_url=CLUSTER, response_nonce=answer.nonce, error_detail=refusal)
        )
        yield
