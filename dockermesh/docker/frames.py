"""Output without a terminal, as the engine sends it: parts of stdout and stderr in frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

FRAME = struct.Struct(">BxxxL")
"""What stands before each part: the stream that it is of, and its length."""


def frames(answer: Any) -> Iterator[tuple[int, bytes]]:
    """The parts of an answer while they come, each with its stream (1 or 2)."""
    while len(head := answer.raw.read(FRAME.size)) == FRAME.size:
        stream, length = FRAME.unpack(head)
        yield stream, answer.raw.read(length)
