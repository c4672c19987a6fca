"""Which projects and containers of this host are in node mode because somebody attached them: a
file that the agent writes, and that agent and registrar read.

Labels cannot tell: a running container's do not change, and those of an override are gone with the
next `docker compose up` by hand. Invariant: a file that cannot be read says what it said last, or
nothing is in node mode by it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from dockermesh.model.attached import ATTACHED_NAME, CAPTURED_NAME, Attached
from dockermesh.model.contract import NODE_PATH
from dockermesh.runtime.files import FOR_ALL, replace_file
from dockermesh.runtime.inotify import FolderWatch

log = structlog.get_logger(__name__)

_AGAIN_S = 5.0


class AttachedFile:
    """The file in `folder`, which may come later, or never."""

    def __init__(self, folder: Path = Path(NODE_PATH)) -> None:
        self._folder = folder
        self.now = Attached()
        self.read()

    def read(self) -> bool:
        """Read it again; whether it says something else than before."""
        before, self.now = self.now, _read(self._folder / ATTACHED_NAME, self.now)
        return before != self.now

    def write(self, attached: Attached) -> None:
        """Put it in force. Raises OSError."""
        replace_file(
            self._folder / ATTACHED_NAME, attached.to_json(), FOR_ALL, is_durable=True
        )
        self.now = attached

    def write_captured(self, workloads: Iterable[str]) -> None:
        """Tell whose connections are led to the proxy. Raises OSError."""
        content = json.dumps(sorted(workloads)).encode() + b"\n"
        replace_file(self._folder / CAPTURED_NAME, content, FOR_ALL)

    def captured(self) -> frozenset[str]:
        """What was told by `write_captured`."""
        try:
            return frozenset(json.loads((self._folder / CAPTURED_NAME).read_bytes()))
        except (OSError, ValueError, TypeError):
            return frozenset()

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever it says something else, for ever."""
        while True:
            try:
                watch = FolderWatch(self._folder)
            except OSError:
                # No node mode on this host; mounted later at the earliest with another process.
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                if self.read():
                    changed()
                async for _ in watch.notices():
                    if self.read():
                        changed()
            finally:
                watch.close()


def _read(file: Path, before: Attached) -> Attached:
    try:
        return Attached.from_json(file.read_bytes())
    except FileNotFoundError:
        return Attached()
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning(
            "cannot be read; what it said stays", file=str(file), error=str(error)
        )
        return before
