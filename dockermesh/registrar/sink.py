"""Where the registrar's desired state goes: Consul, or a catalog in memory.

Invariant of every sink: `apply` is called for one group at a time, may fail with RegistryError, and
is then called again with newer state; applying the same state twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from dockermesh.registrar.desired import Desired


class Sink(Protocol):
    """A place for registrations and workloads."""

    async def run(self, resync: Callable[[], None]) -> None:
        """Work in the background for ever; call `resync` when the place may have lost or changed
        what it held.
        """

    async def refresh(self) -> None:
        """Learn what the place holds now."""

    async def apply(self, group: str, desired: Desired) -> None:
        """Make the entries of `group` those of `desired`."""

    async def retain(self, groups: Collection[str]) -> None:
        """Remove own entries of all other groups."""
