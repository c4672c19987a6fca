"""Modules of plugins: what is taken for one, what is kept, and that one which is had stays."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from patience import SLACK
from wasm_module import adding_header

from dockermesh.controlplane import modules
from dockermesh.controlplane.modules import Modules
from dockermesh.errors import UsageError
from dockermesh.translate.mesh.modules import ModuleSource

ONE, OTHER = adding_header("x-a", "1"), adding_header("x-a", "2")
NAME = "WasmPlugin default/a"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10 * SLACK):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Server:
    """Serves what it is told to at every path."""

    def __init__(self) -> None:
        self.content: bytes | None = ONE
        self.asked = 0
        self.url = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.gate.wait()
        if request.path == "/moved":
            raise web.HTTPFound("/m.wasm")
        if self.content is None:
            raise web.HTTPNotFound
        return web.Response(body=self.content)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/{path}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


class Followed:
    """Modules that run, and what they said."""

    def __init__(self, folder: Path, patience: float = 60.0) -> None:
        self.changes = 0
        config = folder / "config"
        config.mkdir(exist_ok=True)
        self.modules = Modules(
            folder / "state", config, self._changed, retry=0.02, patience=patience
        )

    def _changed(self) -> None:
        self.changes += 1

    async def until(self, problem: str, content: bytes = b"") -> None:
        def found() -> bool:
            has = self.modules.known.get(NAME)
            return (
                has is not None
                and has.content == content
                and (not has.problem if not problem else problem in has.problem)
            )

        await eventually(found)

    def want(self, url: str, digest: str = "") -> None:
        self.modules.want({NAME: ModuleSource(url, digest)})


@asynccontextmanager
async def following(folder: Path, patience: float = 60.0) -> AsyncIterator[Followed]:
    made = Followed(folder, patience)
    task = asyncio.create_task(made.modules.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_module_is_fetched_once_and_kept_for_the_next_start(
    tmp_path: Path,
) -> None:
    async with serving() as server:
        async with following(tmp_path) as one:
            assert one.modules.is_settled
            one.want(f"{server.url}/moved", sha256(ONE))
            assert not one.modules.is_settled
            await one.until("", ONE)
            assert one.modules.is_settled and one.changes == 1
        asked, server.content = server.asked, None
        async with following(tmp_path) as again:
            again.want(f"{server.url}/moved", sha256(ONE))
            await again.until("", ONE)
        assert server.asked == asked


async def test_without_a_sha256_it_is_fetched_anew_and_the_copy_stands_in(
    tmp_path: Path,
) -> None:
    async with serving() as server:
        for content, wanted in ((ONE, ONE), (OTHER, OTHER), (None, OTHER)):
            server.content = content
            async with following(tmp_path) as one:
                one.want(f"{server.url}/m.wasm")
                await one.until("", wanted)


@pytest.mark.parametrize(
    ("content", "digest", "problem"),
    [
        (OTHER, sha256(ONE), f"has the sha256 {sha256(OTHER)}"),
        (b"<html>", "", "is no WebAssembly module"),
        (b"\0asm\1\0\0\0", "", "exports no proxy_abi_version"),
        (None, "", "answered 404"),
        (b"\0asm" + bytes(modules.LARGEST), "", "is larger than 16 MiB"),
    ],
)
async def test_what_is_not_the_module_is_refused_until_it_is(
    tmp_path: Path, content: bytes | None, digest: str, problem: str
) -> None:
    async with serving() as server, following(tmp_path) as one:
        server.content = content
        one.want(f"{server.url}/m.wasm", digest)
        await one.until(problem)
        server.content = ONE
        await one.until("", ONE)


async def test_a_plugin_keeps_its_module_until_the_next_one_is_there(
    tmp_path: Path,
) -> None:
    async with serving() as server, following(tmp_path) as one:
        one.want(f"{server.url}/m.wasm")
        await one.until("", ONE)
        server.content = OTHER
        one.want(f"{server.url}/m.wasm", sha256(b"another"))
        await one.until("has the sha256", ONE)
        one.want(f"{server.url}/m.wasm", sha256(OTHER))
        await one.until("", OTHER)
        one.modules.want({})
        assert not one.modules.known


async def test_what_comes_after_another_was_wanted_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied = threading.Event()
    monkeypatch.setattr(Modules, "_tidy", lambda *_: tidied.wait(60))

    def is_at_it() -> bool:
        return any("module of" in task.get_name() for task in asyncio.all_tasks())

    async with serving() as server, following(tmp_path) as one:
        try:
            server.gate.clear()
            one.want(f"{server.url}/m.wasm")
            await eventually(lambda: server.asked)
            # It is busy, and hears of this when the first has come.
            one.want(f"{server.url}/other.wasm", sha256(OTHER))
            server.gate.set()
            await eventually(lambda: not is_at_it())
            assert not one.modules.known
            server.content = OTHER
        finally:
            tidied.set()
        await one.until("", OTHER)
        assert one.changes == 1


async def test_an_image_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with following(tmp_path) as one:
        for url in ("oci://registry/plugin:1", "registry/plugin"):
            one.modules.want({})
            one.want(url)
            await one.until("is an image, and none is pulled")


async def test_a_file_is_one_beside_the_config_or_one_that_was_brought(
    tmp_path: Path,
) -> None:
    async with following(tmp_path) as one:
        outside = tmp_path / "outside.wasm"
        outside.write_bytes(OTHER)
        (tmp_path / "config/link.wasm").symlink_to(outside)
        (tmp_path / "config/in.wasm").write_bytes(ONE)
        for url in ("file:///link.wasm", "file:///../outside.wasm", "file:///%00"):
            one.modules.want({})
            one.want(url)
            await one.until("`dockermesh apply` brings the file here")
        one.want("file://in.wasm")
        await one.until("", ONE)

        one.want("file:///home/me/m.wasm", sha256(OTHER))
        await one.until("there is no home/me/m.wasm", ONE)
        assert not await one.modules.has(sha256(OTHER))
        with pytest.raises(UsageError, match="has the sha256"):
            await one.modules.store(sha256(OTHER), ONE)
        await one.modules.store(sha256(OTHER), OTHER)
        await one.until("", OTHER)


async def test_a_damaged_copy_is_not_taken_for_the_module(tmp_path: Path) -> None:
    async with serving() as server, following(tmp_path) as one:
        await one.modules.store(sha256(ONE), ONE)
        (tmp_path / f"state/{sha256(ONE)}.wasm").write_bytes(OTHER)
        one.want(f"{server.url}/m.wasm", sha256(ONE))
        await one.until("", ONE)
        assert server.asked == 1


async def test_a_start_waits_for_modules_but_not_for_ever(tmp_path: Path) -> None:
    async with serving() as server, following(tmp_path, patience=0.2) as one:
        server.gate.clear()
        one.want(f"{server.url}/m.wasm")
        assert not one.modules.is_settled
        await eventually(lambda: one.modules.is_settled and one.changes)
        assert NAME not in one.modules.known
        server.gate.set()


async def test_all_together_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_LARGEST_TOGETHER", len(ONE) + 1)
    async with serving() as server, following(tmp_path) as one:
        source = ModuleSource(f"{server.url}/m.wasm")
        one.modules.want({"WasmPlugin default/b": source})
        await eventually(lambda: "WasmPlugin default/b" in one.modules.known)
        one.modules.want({"WasmPlugin default/b": source, NAME: source})
        await one.until("all modules together are larger")
