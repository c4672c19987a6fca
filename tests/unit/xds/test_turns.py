"""Large responses: a few at a time, and nobody waits for ever for who does not read."""

from __future__ import annotations

import asyncio

from dockermesh.xds.turns import LARGE, Turns


async def test_a_few_write_large_responses_at_a_time_and_all_do_in_the_end() -> None:
    turns, writing, most = Turns(2, patience=60), 0, 0

    async def write() -> None:
        nonlocal writing, most
        async with turns.turn(LARGE):
            writing += 1
            most = max(most, writing)
            await asyncio.sleep(0)
            writing -= 1

    await asyncio.gather(*(write() for _ in range(20)))
    assert most == 2


async def test_small_ones_need_no_turn() -> None:
    turns = Turns(1, patience=60)
    async with turns.turn(LARGE), turns.turn(LARGE - 1):
        pass


async def test_who_does_not_read_gives_its_turn_away_once() -> None:
    turns = Turns(1, patience=0.01)
    async with asyncio.timeout(60):
        async with turns.turn(LARGE), turns.turn(LARGE):
            pass
        # Neither left one more turn behind, nor one less.
        async with turns.turn(LARGE):
            assert turns._free.locked()
