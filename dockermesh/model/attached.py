"""Which projects and containers of a host are in node mode because somebody attached them, as it is
kept in a file that the agent writes, and that agent, registrar and command line read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

ATTACHED_NAME = "attached.json"
CAPTURED_NAME = "captured.json"


@dataclass(frozen=True, slots=True)
class Attached:
    """Compose projects, and containers by their names."""

    projects: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()

    def with_these(
        self, projects: Iterable[str] = (), containers: Iterable[str] = ()
    ) -> Attached:
        """With these added."""
        return Attached(
            self.projects | frozenset(projects), self.containers | frozenset(containers)
        )

    def without(
        self, projects: Iterable[str] = (), containers: Iterable[str] = ()
    ) -> Attached:
        """With these left out."""
        return replace(
            self,
            projects=self.projects - frozenset(projects),
            containers=self.containers - frozenset(containers),
        )

    @classmethod
    def from_json(cls, content: bytes) -> Attached:
        """What `to_json` wrote. Raises ValueError, KeyError or TypeError."""
        found = json.loads(content)
        return cls(
            frozenset(map(str, found["projects"])),
            frozenset(map(str, found["containers"])),
        )

    def to_json(self) -> bytes:
        """As it is kept."""
        known = {
            "projects": sorted(self.projects),
            "containers": sorted(self.containers),
        }
        return json.dumps(known, indent=1).encode() + b"\n"
