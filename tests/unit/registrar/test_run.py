"""What the registrar looks up before it starts, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from dockermesh.docker.async_engine import DockerEngine
from dockermesh.registrar.options import Options
from dockermesh.registrar.run import complete_options


async def test_the_hosts_address_is_not_looked_up_where_nothing_is_announced_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(
        socket, "gethostbyname", lambda name: looked_up.append(name) or "192.0.2.1"
    )
    for options in (
        Options(host="laptop", internal=True),
        Options(host="laptop", ip="192.0.2.9"),
    ):
        assert (await complete_options(DockerEngine(), options)).host_address == ""
    assert not looked_up
    assert (
        await complete_options(DockerEngine(), Options(host="laptop"))
    ).host_address == "192.0.2.1"


async def test_a_name_server_that_is_away_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others_ran = threading.Event()

    def slow(_: str) -> str:
        # Were the event loop waiting for this, nobody could set it.
        assert others_ran.wait(30), "the lookup stopped the event loop"
        return "192.0.2.1"

    monkeypatch.setattr(socket, "gethostbyname", slow)
    completing = asyncio.create_task(
        complete_options(DockerEngine(), Options(host="laptop"))
    )
    await asyncio.sleep(0)
    others_ran.set()
    assert (await completing).host_address == "192.0.2.1"
