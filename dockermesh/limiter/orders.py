"""What the control plane and its limiter tell each other, over the pipes of the process.

Down go `Orders`, pickled: parent and child are one program, and nobody else writes to that pipe. Up
come lines of JSON, reports, as they go into metrics and statuses.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

from dockermesh.limiter.server import ServerIdentity
from dockermesh.model.rate_limits import LimitDomains

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Orders:
    """The limits and the identity from now on; None: as before."""

    domains: LimitDomains | None = None
    identity: ServerIdentity | None = None

    def pack(self) -> bytes:
        """As they are sent."""
        data = pickle.dumps(self)
        return _LENGTH.pack(len(data)) + data


async def read_orders(reader: asyncio.StreamReader) -> Orders | None:
    """The next ones; None at the end."""
    try:
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        found = pickle.loads(await reader.readexactly(size))
    except asyncio.IncompleteReadError:
        return None
    assert isinstance(found, Orders)
    return found


@dataclass(frozen=True, slots=True)
class Report:
    """How the limiter is. `decisions` are by limit and outcome; `problem`: why it cannot count."""

    port: int = 0
    problem: str = ""
    buckets: int = 0
    evicted: int = 0
    undecided: int = 0
    decisions: tuple[tuple[str, str, int], ...] = field(default=())

    def line(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"


def read_report(line: bytes) -> Report:
    """A report from its line."""
    values: dict[str, Any] = json.loads(line)
    values["decisions"] = tuple((n, o, int(c)) for n, o, c in values["decisions"])
    return Report(**values)
