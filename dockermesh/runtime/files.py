"""A file is replaced in one step: whoever reads it, or starts after a crash, finds the old one or
the new one, and never half of either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
FOR_ALL = 0o644


def replace_file(
    path: Path, content: bytes, mode: int | None = None, *, is_durable: bool = False
) -> None:
    """Put `content` at `path`, with exactly `mode` (None: what the process gives new files).

    `is_durable`: it is on the disk before the old one is gone, which costs some milliseconds.
    Raises OSError, also if there is no such folder; the old file then stays.
    """
    with drafted(path, content, mode, is_durable=is_durable) as put:
        put()


@contextmanager
def drafted(
    path: Path, content: bytes, mode: int | None = None, *, is_durable: bool = False
) -> Iterator[Callable[[], None]]:
    """Write the content beside `path`, and give the function that puts it there.

    What could fail for want of room has been done by then, so something else can be done between,
    and neither without the other. Without a call nothing is left behind. Raises OSError.
    """
    # Beside it, as only a rename within one file system is one step; not by a fixed name, as two
    # processes may write at once.
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")

    try:
        _write(draft, content, mode, is_durable=is_durable)
        yield lambda: _put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _put(draft: Path, path: Path) -> None:
    draft.rename(path)


def _write(draft: Path, content: bytes, mode: int | None, *, is_durable: bool) -> None:
    draft.unlink(missing_ok=True)
    # Private from the first byte on: a mode that is set afterwards comes too late.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(
        os.open(draft, flags, 0o666 if mode is None else mode), "wb"
    ) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(content)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
