"""Certificates that have to be renewed while the CA is away, and clocks that are wrong."""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from itertools import pairwise
from pathlib import Path

from ads import FakeProxy, fleet
from fault import Trial, fault
from mesh import Needs
from processes import until
from proxies import admit, dismiss, target

CI_TTL, FULL_TTL = 24, 240
SHORT = Needs(leaf_lifetime=f"{CI_TTL}s")
LONGER = Needs(leaf_lifetime=f"{FULL_TTL}s")
ALWAYS_VALID = "no request and no handshake fails; no certificate ever runs out"


def lapses(proxy: FakeProxy, begin: float, end: float) -> bool:
    """Whether the proxy was without a valid certificate at some time."""
    arrivals = [*((at, leaf) for at, leaf in proxy.certificates), (end, None)]
    if not proxy.certificates:
        return True
    for (_, leaf), (following, _) in pairwise(arrivals):
        assert leaf is not None
        if max(following, begin) > leaf.not_valid_after_utc.timestamp():
            return True
    return False


async def _half_a_ttl(trial: Trial, ttl: int, count: int) -> None:
    names = [f"fleet/p-{n}" for n in range(count)]
    await admit(trial, *names)
    begin = time.time()
    async with fleet(names, [target(trial)], trial.plane.trust) as fakes:
        await until(lambda: all(p.synced.is_set() for p in fakes), "all in sync", 180)
        # One whole term with the CA, half of one without it.
        await asyncio.sleep(ttl / 2)
        trial.plane.kill()
        # Who is just before its renewal has half of its certificate's life left, and no more.
        await asyncio.sleep(ttl / 2 - ttl / 6)
        await trial.plane.open()
        await trial.heals(lambda: all(p.synced.is_set() for p in fakes), "all are back")
        back = time.time()
        await asyncio.sleep(ttl / 2)
        end = time.time()
        lapsed = [p.name for p in fakes if lapses(p, begin, end)]
        trial.expect(not lapsed, f"{len(lapsed)} proxies had none: {lapsed[:5]}")
        renewals = sorted(
            at for p in fakes for at, _ in p.certificates if at > back + 1
        )
        spread = renewals[-1] - renewals[0] if renewals else 0.0
        trial.note(
            f"{count} proxies, TTL {ttl} s: {len(renewals)} renewals spread over {spread:.0f} s"
        )
        trial.expect(spread >= min(10.0, ttl / 6), "all were renewed at one moment")
    dismiss(trial, *names)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")


@fault(
    "F21",
    "the CA is away for nearly half of a certificate's life",
    expects=ALWAYS_VALID,
    needs=SHORT,
    # To start the control plane takes as long as all that is left of a shorter life.
    in_ci=False,
)
async def away_briefly(trial: Trial) -> None:
    """A life of seconds; the clients' new connections are handshakes with what is left."""
    await _half_a_ttl(trial, CI_TTL, trial.size.pick(50, 100))


@fault(
    "F21a",
    "the CA is away for nearly half of a certificate's life, 500 proxies",
    expects=ALWAYS_VALID,
    needs=LONGER,
    in_ci=False,
)
async def away_for_many(trial: Trial) -> None:
    """The size of the list."""
    await _half_a_ttl(trial, FULL_TTL, 500)


def set_clock(trial: Trial, seconds: float) -> None:
    """The control plane's time of day is wrong by so much from now on."""
    file = Path(os.environ["FAULTS_CLOCK"])
    temporary = file.with_suffix(".new")
    temporary.write_text(str(seconds))
    temporary.rename(file)
    trial.note(f"clock {seconds:+.0f} s")


@fault(
    "F23",
    "the control plane's clock jumps by an hour, there and back",
    expects="no request fails; the jump is counted; nothing is signed for later",
    needs=Needs(shifted=True),
    in_ci=False,
)
async def jumped(trial: Trial) -> None:
    """Certificates begin two minutes before now, and are not replaced because of a jump."""
    name = "clock/p-1"
    await admit(trial, name)
    async with fleet([name], [target(trial)], trial.plane.trust) as [fake]:
        await until(fake.synced.is_set, "it is in sync")
        _, leaf = fake.certificates[0]
        early = datetime.datetime.now(datetime.UTC) - leaf.not_valid_before_utc
        trial.expect(
            early >= datetime.timedelta(minutes=2), f"it begins only {early} before now"
        )
        for seconds in (3600, -3600, 0):
            before = await trial.plane.metric("dockermesh_clock_jumps_total")
            set_clock(trial, seconds)

            async def counted(before: float = before) -> bool:
                jumps = await trial.plane.metric("dockermesh_clock_jumps_total")
                return bool(jumps > before)

            # It is looked at twice a minute.
            await trial.heals(counted, f"the jump to {seconds:+} s is counted", 90)
            if not trial.size.is_full:
                break
        await asyncio.sleep(trial.size.pick(2, 30))
        set_clock(trial, 0)
        await asyncio.sleep(1)
        now = datetime.datetime.now(datetime.UTC)
        held = fake.certificates[-1][1]
        trial.expect(
            held.not_valid_before_utc <= now <= held.not_valid_after_utc,
            "it has a certificate that is not valid now",
        )
    dismiss(trial, name)
    await trial.heals(trial.mesh.proxies_synced, "all proxies are in sync")
