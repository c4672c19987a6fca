"""Checks that are scripts: what their exit codes mean, and that none runs twice at once."""

from __future__ import annotations

import asyncio

import pytest

from dockermesh.registrar.script_checks import ScriptChecks

SCRIPT = ["/bin/sh", "-c", "true"]


class Container:
    """Where a script runs; `code` is None for as long as it hangs."""

    def __init__(self, code: int | None, output: str = "") -> None:
        self.code, self.output = code, output
        self.runs: list[tuple[str, list[str], float]] = []

    async def execute(
        self, container: str, command: list[str], seconds: float
    ) -> tuple[str, int | None, str]:
        self.runs.append((container, command, seconds))
        return f"exec{len(self.runs)}", self.code, self.output

    async def is_executing(self, execution: str) -> bool:
        return self.code is None


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "passing"), (1, "warning"), (2, "critical"), (127, "critical")],
)
def test_exit_codes_mean_what_they_mean_to_consul(code: int, status: str) -> None:
    container = Container(code, "said\n" * 1000)
    found = asyncio.run(ScriptChecks(container).ask("c1", SCRIPT, 3.0))
    assert found.status == status
    assert found.output.startswith("said") and len(found.output) <= 1024
    assert container.runs == [("c1", SCRIPT, 3.0)]


def test_a_script_that_hangs_is_critical_and_not_run_again_before_it_ends() -> None:
    container = Container(None)
    checks = ScriptChecks(container)

    async def ask() -> str:
        return (await checks.ask("c1", SCRIPT, 3.0)).output

    assert "more than 3 s" in asyncio.run(ask())
    assert "still runs" in asyncio.run(ask()) and "still runs" in asyncio.run(ask())
    assert len(container.runs) == 1
    container.code = 0
    asyncio.run(ask())
    assert len(container.runs) == 2
