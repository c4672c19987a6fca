"""`dockermesh convert`: exit codes, what is printed where, and what of it others understand."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from dockermesh.cli import convert, validate

CASES = Path(__file__).parents[3] / "golden" / "convert"
DENIER = str(CASES / "denier.in.yaml")
TELEMETRY = str(CASES / "telemetry.in.yaml")
V3 = ("--account", "app=reviews,version=v3:shop/reviews-v3")


def run(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(convert.command, args, input=stdin, standalone_mode=False)


def test_a_denier_that_cannot_be_said_fails_and_prints_nothing() -> None:
    result = run(DENIER)

    assert result.return_value == 1
    assert result.stdout == ""
    assert "--account app=reviews,version=v3:ACCOUNT" in result.stderr
    assert "nothing is printed" in result.stderr


def test_the_rest_is_printed_on_request_and_it_still_fails() -> None:
    result = run(DENIER, "--partial", "-o", "json")

    assert result.return_value == 1
    names = [each["metadata"]["name"] for each in json.loads(result.stdout)["items"]]
    assert names == ["denyproductpage", "denyingress", "paths", "cookies"]


def test_an_account_says_who_is_meant() -> None:
    result = run(DENIER, *V3)

    assert result.return_value == 0
    assert "- '*/ns/shop/sa/reviews-v3'" in result.stdout


def test_strict_fails_for_what_is_not_exact() -> None:
    assert run(TELEMETRY).return_value == 0
    assert run(TELEMETRY, "--strict").return_value == 1


def test_an_account_in_another_form_is_wrong_usage() -> None:
    result = run(DENIER, "--account", "app=reviews")

    assert result.exit_code != 0
    assert "is not LABEL=VALUE[,LABEL=VALUE...]:ACCOUNT" in str(result.exception)


def test_validate_takes_what_comes_out(tmp_path: Path) -> None:
    for output in ("yaml", "json"):
        file = tmp_path / f"today.{output}"
        file.write_text(run(DENIER, *V3, "-o", output).stdout)
        checked = CliRunner().invoke(
            validate.command, [str(file)], standalone_mode=False
        )
        assert checked.return_value == 0
        assert checked.stderr.startswith("5 valid, 0 errors")


def test_validate_of_mixers_resources_says_what_to_do() -> None:
    checked = CliRunner().invoke(validate.command, [DENIER], standalone_mode=False)

    assert checked.return_value == 1
    assert checked.stdout.count("`dockermesh convert` translates it") == 7
