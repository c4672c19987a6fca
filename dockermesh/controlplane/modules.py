"""The WebAssembly modules of plugins, fetched by the control plane, checked, and kept on its disk.

Invariants:
- Nothing but the content that a `sha256` names is taken for it, wherever it comes from.
- A plugin keeps the module that it has until the next one is there.
- A fetch is bounded in time and size; sources do not wait for each other, and nothing else waits
  for any of them, but for the first config that a control plane serves: it must not be wider than
  what its predecessor served.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

import aiohttp
import structlog

from dockermesh.controlplane.fetching import get, patient, session
from dockermesh.errors import DockermeshError, UsageError
from dockermesh.runtime.backoff import Backoff
from dockermesh.runtime.files import PRIVATE, replace_file
from dockermesh.translate.mesh.modules import Module, ModuleSource

LARGEST = 16 << 20
"""Of one module, in bytes."""
_LARGEST_TOGETHER = 64 << 20
_FETCH_S = 30.0
_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_PATIENCE_S = 10.0
_REDIRECTS = 5
_KEPT_UNUSED_S = 24 * 3600.0
_MAGIC = b"\0asm"
_ABI = b"proxy_abi_version_"

log = structlog.get_logger(__name__)


class Modules:
    """Follows what is wanted; `changed` is called whenever `known` is another."""

    def __init__(
        self,
        folder: Path,
        config: Path | None,
        changed: Callable[[], None],
        *,
        retry: float = _RETRY_S,
        patience: float = _PATIENCE_S,
    ) -> None:
        """What is fetched is kept in `folder`; `file://` leads below `config`. After `patience`
        seconds what was not got at the start counts as missing.
        """
        self._folder, self._config = folder, config
        self._changed = changed
        self._retry, self._patience = retry, patience
        self._wanted: Mapping[str, ModuleSource] = {}
        self._known: Mapping[str, Module] = MappingProxyType({})
        self._news = asyncio.Event()
        self._stored = asyncio.Event()
        self._since: float | None = None

    @property
    def known(self) -> Mapping[str, Module]:
        """What is known, by plugin; the same object until that changes."""
        return self._known

    @property
    def is_settled(self) -> bool:
        """Whether each module was tried once, or waited for long enough."""
        if self._wanted.keys() <= self._known.keys():
            return True
        return (
            self._since is not None and time.monotonic() - self._since >= self._patience
        )

    def want(self, sources: Mapping[str, ModuleSource]) -> None:
        """The sources from now on, by plugin."""
        if sources == self._wanted:
            return
        gone = self._known.keys() - sources.keys()
        if gone:
            left = {name: m for name, m in self._known.items() if name not in gone}
            self._known = MappingProxyType(left)
        self._wanted = dict(sources)
        self._news.set()

    async def run(self) -> None:
        """Follow the sources until cancelled."""
        followed: dict[str, tuple[ModuleSource, asyncio.Task[None]]] = {}
        async with session({}) as fetching, asyncio.TaskGroup() as tasks:
            while True:
                self._news.clear()
                wanted = self._wanted
                self._begin()
                for name, (source, task) in list(followed.items()):
                    if wanted.get(name) != source:
                        task.cancel()
                        del followed[name]
                for name in wanted.keys() - followed.keys():
                    following = self._follow(fetching, name, wanted[name])
                    task = tasks.create_task(following, name=f"module of {name}")
                    followed[name] = wanted[name], task
                await asyncio.to_thread(self._tidy, wanted.values())
                await self._news.wait()

    async def store(self, sha256: str, content: bytes) -> None:
        """Keep a module that somebody brings. Raises UsageError if it is another one, or none;
        OSError if the disk does not take it.
        """
        source = ModuleSource("the upload", sha256)
        await asyncio.to_thread(_check, content, source)
        await asyncio.to_thread(self._keep, _file_of(source), content)
        stored, self._stored = self._stored, asyncio.Event()
        stored.set()

    async def has(self, sha256: str) -> bool:
        """Whether a module is kept here."""
        return await asyncio.to_thread(self._read_named, sha256) is not None

    def _begin(self) -> None:
        if self._wanted and self._since is None:
            self._since = time.monotonic()
            asyncio.get_running_loop().call_later(self._patience, self._changed)

    async def _follow(
        self, fetching: aiohttp.ClientSession, name: str, source: ModuleSource
    ) -> None:
        backoff = Backoff(self._retry, _LAST_RETRY_S, jitter=0.0)
        while True:
            stored = self._stored
            before = self._known.get(name, Module())
            try:
                content = await self._get(fetching, source)
                self._check_room(name, content)
            except DockermeshError as error:
                problem = f"{error.what} ({error.fix})"
                if before.problem != problem:
                    log.warning(
                        "a module cannot be had; trying again",
                        plugin=name,
                        reason=problem,
                    )
                    self._learn(name, source, Module(before.content, problem))
            else:
                self._learn(name, source, Module(content))
                return
            try:
                await asyncio.wait_for(stored.wait(), backoff.next())
            except TimeoutError:
                continue

    def _learn(self, name: str, source: ModuleSource, module: Module) -> None:
        # Another is wanted by now, and this fetch not cancelled yet.
        if self._wanted.get(name) != source:
            return
        self._known = MappingProxyType({**self._known, name: module})
        self._changed()

    def _check_room(self, name: str, content: bytes) -> None:
        others = (len(m.content) for n, m in self._known.items() if n != name)
        if sum(others) + len(content) > _LARGEST_TOGETHER:
            raise DockermeshError(
                f"all modules together are larger than {_LARGEST_TOGETHER >> 20} MiB",
                fix="delete plugins that nobody needs",
            )

    async def _get(
        self, fetching: aiohttp.ClientSession, source: ModuleSource
    ) -> bytes:
        """Raises DockermeshError."""
        kept = await asyncio.to_thread(self._read_named, source.sha256)
        if kept is not None:
            return kept

        scheme = urlsplit(source.url).scheme
        if scheme == "file":
            return await asyncio.to_thread(self._read_given, source)
        if scheme not in ("http", "https"):
            raise DockermeshError(
                f"{source.url} is an image, and none is pulled",
                fix="give the module at an https:// URL, or as a file:// with"
                " `dockermesh apply`",
            )

        try:
            content = await _fetch(fetching, source)
        except DockermeshError:
            kept = await asyncio.to_thread(self._read, _file_of(source))
            if kept is None:
                raise
            await asyncio.to_thread(_check, kept, source)
            log.warning("a module cannot be fetched; the copy is used", url=source.url)
            return kept
        try:
            await asyncio.to_thread(self._keep, _file_of(source), content)
        except OSError as error:
            log.warning("a module cannot be kept", reason=error.strerror)
        return content

    # files
    # ----------------------------------------------------------------------------------------------

    def _read_given(self, source: ModuleSource) -> bytes:
        """A file that was put beside the config."""
        parts = urlsplit(source.url)
        wanted = unquote(f"{parts.netloc}{parts.path}").lstrip("/")
        bring = "`dockermesh apply` brings the file here"
        if self._config is None:
            raise DockermeshError(f"{source.url} is not here", fix=bring)
        try:
            file = (self._config / wanted).resolve()
            # Of a link, too, that leads elsewhere.
            if not file.is_relative_to(self._config.resolve()) or not file.is_file():
                raise DockermeshError(
                    f"there is no {wanted} in {self._config}", fix=bring
                )
            with file.open("rb") as opened:
                content = opened.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            raise DockermeshError(f"{source.url}: {error}", fix=bring) from error
        if len(content) > LARGEST:
            raise DockermeshError(
                f"{file} is larger than {LARGEST >> 20} MiB", fix="make it smaller"
            )
        _check(content, source)
        return content

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return None

    def _read_named(self, sha256: str) -> bytes | None:
        """What is kept by this digest, if it is still that."""
        found = self._read(f"{sha256}.wasm") if sha256 else None
        return found if found is not None and _sha256(found) == sha256 else None

    def _keep(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._folder / name, content, PRIVATE)

    def _tidy(self, wanted: Iterable[ModuleSource]) -> None:
        """Remove what no plugin has named for a day."""
        used = {_file_of(source) for source in wanted}
        try:
            for file in self._folder.glob("*.wasm"):
                age = time.time() - file.stat().st_mtime
                if file.name in used:
                    file.touch()
                elif age > _KEPT_UNUSED_S:
                    file.unlink()
        except OSError as error:
            log.warning("old modules cannot be removed", reason=error.strerror)


async def _fetch(fetching: aiohttp.ClientSession, source: ModuleSource) -> bytes:
    async with patient(source.url, _FETCH_S):
        content = await get(fetching, source.url, LARGEST, redirects=_REDIRECTS)
    await asyncio.to_thread(_check, content, source)
    return content


def _file_of(source: ModuleSource) -> str:
    """Where a module is kept."""
    return f"{source.sha256 or f'at-{_sha256(source.url.encode())}'}.wasm"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check(content: bytes, source: ModuleSource) -> None:
    """Raises UsageError where it is not the module that is meant, or none at all."""
    found = _sha256(content)
    if source.sha256 and found != source.sha256:
        raise UsageError(
            f"{source.url} has the sha256 {found}, and not {source.sha256}",
            fix="correct spec.sha256, or see who changed the file",
        )
    if not content.startswith(_MAGIC):
        raise UsageError(
            f"{source.url} is no WebAssembly module",
            fix="name the .wasm file itself, not an archive or a page",
        )
    if _ABI not in content:
        raise UsageError(
            f"{source.url} is no plugin of a proxy: it exports no proxy_abi_version",
            fix="build it with a Proxy-Wasm SDK",
        )
