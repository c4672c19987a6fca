"""A mesh that changes all the time, for long."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time

from ads import fleet
from changes import route, rule
from fault import Trial, fault
from proxies import admit, dismiss, target
from replicas import entry


@fault(
    "SOAK",
    "config, endpoints, workloads and proxies come and go without a pause",
    expects="no request fails; the control plane's memory is flat",
)
async def churn(trial: Trial) -> None:
    """Memory that is not given back shows as a slope; what a cache needs once does not."""
    seconds = trial.size.pick(15, 1800)
    samples: list[float] = []
    rounds = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await _one_round(trial, rounds)
        rounds += 1
        samples.append(trial.plane.rss_mib())
    third = max(1, len(samples) // 3)
    # The first third fills caches.
    middle = statistics.median(samples[third : 2 * third])
    last = statistics.median(samples[2 * third :])
    trial.note(
        f"{rounds} rounds in {seconds} s; RSS {samples[0]:.0f} MiB at the start,"
        f" {middle:.0f} MiB in the middle third, {last:.0f} MiB in the last"
    )
    trial.expect(last <= middle * 1.1 + 5, "its memory grows")
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync", 120)


async def _one_round(trial: Trial, number: int) -> None:
    plane, mesh = trial.plane, trial.mesh
    name = f"churn/p-{number}"
    address = f"10.99.{number // 200 % 200}.{number % 200 + 1}"
    service = {
        "ID": name,
        "Name": f"churn-{number % 7}",
        "Address": address,
        "Port": 80,
        "Meta": {"protocol": "http", "version": f"v{number % 3}"},
    }
    mesh.registrar.services[name.replace("/", "-")] = service | {
        "ID": name.replace("/", "-")
    }
    await admit(trial, name)
    await plane.apply(
        rule("v1", "v2"),
        route(f"v{number % 2 + 1}"),
        entry(f"churn-{number % 11}", f"h{number}.example", 1000 + number % 1000),
    )
    async with fleet([name], [target(trial)], plane.trust) as [fake]:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fake.synced.wait(), 60)
        trial.expect(fake.synced.is_set(), f"{name} was not served")
    mesh.registrar.services.pop(name.replace("/", "-"), None)
    dismiss(trial, name)
    if number % 11 == 10:
        await plane.remove(*(entry(f"churn-{n}") for n in range(11)))
    if number % 5 == 4:
        await plane.remove(route("v1"), rule("v1"))
