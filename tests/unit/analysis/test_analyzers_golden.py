"""Whole files through every analyzer: what is found, the worst first, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import as_line
from dockermesh.analysis.messages import BY_CODE
from dockermesh.analysis.reading import read_items
from dockermesh.analysis.registry import ANALYZERS, analyze

CASES = Path(__file__).parents[2] / "golden" / "analysis"
NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))


@pytest.mark.parametrize("case", NAMES)
def test_findings_of_a_file(case: str, golden: Callable[[Path, str], None]) -> None:
    file = f"{case}.in.yaml"
    items, findings = read_items([(file, (CASES / file).read_text())], "default")
    found = analyze(Context(items, findings=findings))
    golden(
        CASES / f"{case}.out.txt", "".join(f"{as_line(finding)}\n" for finding in found)
    )


def test_every_analyzer_reports_codes_that_are_listed() -> None:
    for analyzer in ANALYZERS:
        assert analyzer.codes and set(analyzer.codes) <= set(BY_CODE), analyzer.name
    assert set(BY_CODE) - {
        code for analyzer in ANALYZERS for code in analyzer.codes
    } == {"IST0001"}
