"""Classic tasks of Istio 1.0: the resources and the report that come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dockermesh.client.convert.callers import read_accounts
from dockermesh.client.convert.convert import Converted, convert
from dockermesh.config.validate import validate_documents

CASES = Path(__file__).parents[3] / "golden" / "convert"
NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))
ACCOUNTS = {"denier": ["app=reviews,version=v3:reviews-v3"]}


def converted(case: str) -> Converted:
    content = (CASES / f"{case}.in.yaml").read_bytes()
    accounts = read_accounts(ACCOUNTS.get(case, []))
    return convert([(f"{case}.in.yaml", content)], "default", accounts)


def written(found: Converted) -> str:
    return yaml.safe_dump_all(found.resources, sort_keys=False)


@pytest.mark.parametrize("case", NAMES)
def test_a_task_of_old_becomes(case: str, golden: Callable[[Path, str], None]) -> None:
    found = converted(case)

    golden(CASES / f"{case}.out.yaml", written(found))
    lines = (
        f"{line.item.place}: {line.item}: {line.verdict.words}: {line.text}\n"
        for line in found.report
    )
    golden(CASES / f"{case}.report.txt", "".join(lines))


@pytest.mark.parametrize("case", NAMES)
def test_what_comes_out_is_valid(case: str) -> None:
    found = converted(case)
    if not found.resources:
        return
    (reading,) = validate_documents([(case, written(found))])
    assert [finding for finding in reading.findings if finding.is_error] == []
    assert len(reading.resources) == len(found.resources)
