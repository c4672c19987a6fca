"""Notice of what is made, replaced or removed in a folder, from the kernel (inotify).

Invariant: a reader that looks once after it began to watch, and after each notice, misses nothing;
the names in a notice are a help to be quick, and some may be missing.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

_CREATE, _DELETE, _MOVED_TO, _CLOSE_WRITE = 0x100, 0x200, 0x80, 0x8
_NONBLOCKING = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("=iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """A watch on one folder; raises OSError where it cannot be watched."""

    def __init__(self, folder: Path) -> None:
        self._file = _libc.inotify_init1(_NONBLOCKING)
        if self._file < 0:
            raise _error(folder)
        mask = _CREATE | _DELETE | _MOVED_TO | _CLOSE_WRITE
        if _libc.inotify_add_watch(self._file, os.fsencode(folder), mask) < 0:
            error = _error(folder)
            os.close(self._file)
            raise error
        self._noticed = asyncio.Event()
        self._made: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._read)

    async def notices(self) -> AsyncIterator[frozenset[str]]:
        """One for all that happened since the last one was taken, for ever: what was made anew."""
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            made, self._made = frozenset(self._made), set()
            yield made

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _read(self) -> None:
        try:
            while data := os.read(self._file, 1 << 16):
                self._made.update(_created(data))
        except BlockingIOError:
            pass
        self._noticed.set()


def _created(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        _, mask, _, size = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0")
        at += _EVENT.size + size
        if mask & _CREATE:
            yield os.fsdecode(name)


def _error(folder: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(folder))
