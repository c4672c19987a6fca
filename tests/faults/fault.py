"""What a fault is: a function that breaks something in a running mesh, and says what has to hold.

    @fault("F1", "control plane killed, and started again", expects="no request fails")
    async def killed(trial: Trial) -> None:
        ...

Requests are counted by the runner meanwhile; each that fails violates the expectation, unless the
fault says how many may (`trial.may_fail`). Deadlines are generous: they tell what never heals from
what heals, and are no measurement. What is measured is the time to heal.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mesh import Mesh, Needs
from processes import Plane, until


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: `ci` is what fits into two minutes, `full` what the list asks for."""

    name: str

    @property
    def is_full(self) -> bool:
        """Whether time does not matter."""
        return self.name == "full"

    def pick(self, ci: int, full: int) -> int:
        """A number, by size."""
        return full if self.is_full else ci


@dataclass
class Trial:
    """One fault on one mesh: what the function is given, and where it says what it saw."""

    mesh: Mesh
    size: Size
    began: float = field(default_factory=time.monotonic)
    heal_s: float | None = None
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    may_fail: int = 0

    @property
    def plane(self) -> Plane:
        """The first control plane."""
        return self.mesh.planes[0]

    def expect(self, holds: object, otherwise: str) -> None:
        """Something that has to hold."""
        if not holds:
            self.violations.append(otherwise)

    def note(self, text: str) -> None:
        """Something that was seen."""
        self.notes.append(text)

    async def heals(
        self, condition: Callable[[], Any], what: str, within: float = 90
    ) -> float:
        """Wait until something is well again, which is measured."""
        try:
            took = await until(condition, what, within)
        except TimeoutError as error:
            self.violations.append(str(error))
            took = within
        self.heal_s = max(took, self.heal_s or 0.0)
        return took


Run = Callable[[Trial], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table."""

    key: str
    title: str
    expects: str
    run: Run
    needs: Needs
    in_ci: bool


FAULTS: list[Fault] = []
LEFT_OUT = {
    "F3": "in tests/protocol: test_bridge_faults, test_control_plane_tls",
    "F4": "in tests/protocol: test_ads_envoy, test_changes_under_load",
    "F7": "in tests/protocol: test_changes_under_load",
    "F10-F11": "in tests/protocol: test_kubeapi_consul, tests/property",
    "F13-F15": "needs a Docker engine of its own: F14 and F16 in tests/faults/engine.py, the others"
    " in tests/e2e and tests/protocol (test_registrar_live, test_registrar_faults)",
    "F17-F19": "in tests/protocol: test_registrar_faults, test_bridge_faults, test_bridge",
    "F22": "in tests/protocol: test_certificate_rotation",
    "F24-F27": "in tests/protocol: test_ca_store, test_pod_netns; in tests/e2e: test_faults",
    "S13": "needs a Docker engine behind a filter: tests/faults/engine.py",
}
"""What the list has and this suite does not run, and where it is shown instead."""


def fault(
    key: str,
    title: str,
    *,
    expects: str,
    needs: Needs | None = None,
    in_ci: bool = True,
) -> Callable[[Run], Run]:
    """Put a function into the table."""

    def register(run: Run) -> Run:
        FAULTS.append(Fault(key, title, expects, run, needs or Needs(), in_ci))
        return run

    return register
