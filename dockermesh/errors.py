"""The tree of errors that a user can meet; everything else is a bug.

    DockermeshError          exit 1: something failed
    ├── UsageError           exit 2: the command was not used as documented
    ├── InputError           exit 1: a file or resource is wrong (says where)
    ├── EngineError          exit 1: Docker or Compose is missing, too old, or refused
    ├── RegistryError        exit 1: Consul cannot be reached or refused
    └── NotReadyError        exit 1: the mesh did not come up in time

Each carries what failed, where, and what to do next; `cli/` prints the three and maps the class to
an exit code.
"""

from __future__ import annotations


class DockermeshError(Exception):
    """A failure with its place and its remedy.

    `what` is one sentence; `where` a file and line, a resource or an address; `fix` the next step
    to take.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.fix}" if self.fix else text


class UsageError(DockermeshError):
    """The command line is wrong."""

    exit_code = 2


class InputError(DockermeshError):
    """A file, a resource or a setting of the user is wrong."""


class EngineError(DockermeshError):
    """Docker or Compose cannot do what is needed."""


class RegistryError(DockermeshError):
    """Consul cannot be reached, or refused."""


class NotReadyError(DockermeshError):
    """The mesh, or a part of it, did not become ready in time."""
