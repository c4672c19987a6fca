"""Paced calls come at once, then no more often than said, and the last request is never lost."""

from __future__ import annotations

import asyncio

from patience import SLACK

from dockermesh.controlplane.pacing import Paced


async def test_calls_in_a_row_are_two_the_first_at_once() -> None:
    calls: list[float] = []
    loop, is_again = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        calls.append(loop.time())
        if len(calls) > 1:
            is_again.set()

    paced = Paced(call, interval=0.05)
    for _ in range(100):
        paced()
    assert len(calls) == 1
    async with asyncio.timeout(10 * SLACK):
        await is_again.wait()
    assert calls[1] - calls[0] >= 0.05
    await asyncio.sleep(0.1)
    assert len(calls) == 2, "nobody asked again"


async def test_a_call_that_fails_does_not_end_the_pacing() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ValueError

    paced = Paced(call, interval=0.0)
    for _ in range(2):
        try:
            paced()
        except ValueError:
            continue
    assert len(calls) == 2


async def test_who_waits_for_what_was_asked_for_gets_it_and_waits_for_nothing_else() -> (
    None
):
    calls: list[int] = []
    paced = Paced(lambda: calls.append(1), interval=0.05)
    await paced.settled()
    assert not calls
    paced()
    paced()
    await paced.settled()
    assert len(calls) == 2
    paced()
    waiting = asyncio.create_task(paced.settled())
    await asyncio.sleep(0)
    paced.cancel()
    async with asyncio.timeout(10 * SLACK):
        await waiting


async def test_what_is_planned_can_be_forgotten() -> None:
    calls: list[int] = []
    paced = Paced(lambda: calls.append(1), interval=0.02)
    paced()
    paced()
    paced.cancel()
    await asyncio.sleep(0.05)
    assert len(calls) == 1
