"""The versions of Docker's engine and of Compose that the mesh was tested with.

One place for `up`, `doctor` and the documentation. Invariant: a version outside of it is told, and
never refused; what is too old for the features that the mesh needs is refused elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class VersionRange:
    """The oldest and the newest version of something that the tests ran with."""

    name: str
    oldest: Version
    newest: Version

    def note(self, version: str) -> str:
        """What to tell about this version; empty when it is between the tested ones, or not a
        version.
        """
        found = parse_version(version)
        if found is None or self.oldest <= found <= self.newest:
            return ""
        age = "newer" if found > self.newest else "older"
        return f"{self.name} {version} is {age} than what the mesh was tested with ({self.range})"

    @property
    def range(self) -> str:
        """`20.10 to 28.5`."""
        return f"{_text(self.oldest)} to {_text(self.newest)}"


ENGINE = VersionRange("Docker", (20, 10), (28, 5))
COMPOSE = VersionRange("Compose", (2, 26), (2, 40))


def parse_version(text: str) -> Version | None:
    """Major and minor of `v2.40.3-4`, `28.5.2+dfsg4` and the like; None for anything else."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _text(version: Version) -> str:
    return ".".join(map(str, version))
