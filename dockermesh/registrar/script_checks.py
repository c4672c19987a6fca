"""Checks that are scripts (`SERVICE_CHECK_SCRIPT`, `_CMD`), run in the service's own container.

Source: Consul, `agent/checks/check.go` (CheckMonitor), for what an exit code means. Invariant: a
script runs in the container whose labels ask for it and nowhere else, and never twice at once.
"""

from __future__ import annotations

from typing import Protocol

from dockermesh.registrar.checks import HealthStatus

_MAX_OUTPUT = 1024
_MEANINGS = {0: "passing", 1: "warning"}


class Commands(Protocol):
    """What running a script needs of the engine."""

    async def execute(
        self, container: str, command: list[str], seconds: float
    ) -> tuple[str, int | None, str]: ...
    async def is_executing(self, execution: str) -> bool: ...


class ScriptChecks:
    """Runs scripts, and knows which of them hang."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._hanging: dict[tuple[str, str], str] = {}

    async def ask(
        self, container: str, command: list[str], seconds: float
    ) -> HealthStatus:
        """What a run of the script says. Raises EngineError when the engine does not let it run."""
        key = container, command[-1]
        before = self._hanging.pop(key, "")
        if before and await self._commands.is_executing(before):
            # Nobody can end it from outside; a second one would not be the last.
            self._hanging[key] = before
            return HealthStatus("critical", "an earlier run of the script still runs")

        execution, code, output = await self._commands.execute(
            container, command, seconds
        )
        if code is None:
            self._hanging[key] = execution
            return HealthStatus("critical", f"the script took more than {seconds:g} s")
        return HealthStatus(_MEANINGS.get(code, "critical"), output[:_MAX_OUTPUT])
