"""Whether the folder of the control plane's state takes what is written there.

A disk that is full or read-only is noticed at the next write otherwise, and that may be at the next
change of a policy. So something is written there all the time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from dockermesh.runtime.files import PRIVATE, drafted

log = structlog.get_logger(__name__)
_LOOK_S = 2.0
_PROBE = ".probe"
# More than a file system keeps beside a file's name: else there is room for it on a full disk.
_CONTENT = b"\0" * 8192


class StateVolume:
    """Looks after the folder; `problem` says why it cannot be written, empty while it can."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.problem = ""

    async def run(self) -> None:
        """Look for ever; cancel to stop."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Try it once."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with drafted(self._folder / _PROBE, _CONTENT, PRIVATE):
                pass
        except OSError as error:
            problem = (
                f"The control plane's state at {self._folder} cannot be written"
                f" ({error.strerror}): what changes now may be lost with Consul's data."
            )
            if problem != self.problem:
                log.error(problem)
            self.problem = problem
            return
        if self.problem:
            log.info("the control plane's state can be written again")
        self.problem = ""
