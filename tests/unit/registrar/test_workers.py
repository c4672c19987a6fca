"""Workers by key: what is marked after the end starts nothing."""

from __future__ import annotations

from dockermesh.registrar.workers import KeyedWorkers


async def test_a_mark_after_the_end_starts_nothing() -> None:
    handled: list[str] = []

    async def handle(key: str) -> None:
        handled.append(key)

    workers = KeyedWorkers(handle)
    workers.mark("before")
    await workers.idle()
    await workers.close()
    workers.mark("after")
    await workers.idle()
    assert handled == ["before"]
