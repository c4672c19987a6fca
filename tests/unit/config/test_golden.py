"""Whole files: every finding with its line, in the order a reader meets the documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dockermesh.config.documents import read_text

CASES = Path(__file__).parents[2] / "golden" / "config"
NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))


@pytest.mark.parametrize("case", NAMES)
def test_findings_of_a_file(case: str, golden: Callable[[Path, str], None]) -> None:
    text = (CASES / f"{case}.in.yaml").read_text()
    findings = read_text(text, f"{case}.in.yaml").findings
    golden(CASES / f"{case}.out.txt", "".join(f"{finding}\n" for finding in findings))


@pytest.mark.parametrize("case", NAMES)
def test_every_finding_names_an_existing_line_and_a_field(case: str) -> None:
    text = (CASES / f"{case}.in.yaml").read_text()
    lines = text.splitlines()
    for finding in read_text(text, case).findings:
        assert 0 < finding.line <= len(lines), finding
        assert finding.field, finding
        assert finding.message, finding
