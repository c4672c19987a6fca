"""`dockermesh validate`: exit codes and both outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dockermesh.cli.main import main
from dockermesh.cli.validate import command

VALID = (
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host:"
    " b}\n"
)
INVALID = VALID.replace("host", "hots")


def run(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command, args, input=stdin, standalone_mode=False)


def test_valid_exits_0(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(VALID)
    assert run(str(file)).return_value == 0


def test_invalid_exits_1_and_names_file_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(INVALID)
    result = run(str(file))
    assert result.return_value == 1
    assert (
        f"{file}:4: error: DestinationRule default/a: spec.hots: unknown field 'hots'"
        in result.output
    )


def test_json_from_stdin() -> None:
    result = run("-o", "json", "-", stdin=INVALID)
    assert result.return_value == 1
    findings = json.loads(result.stdout)
    assert {frozenset(f) for f in findings} == {
        frozenset(("resource", "file", "line", "field", "level", "message"))
    }
    assert [f["field"] for f in findings] == ["spec.hots", "spec.host"]


def test_directories_and_resources_given_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VALID)
    (tmp_path / "b.json").write_text(
        json.dumps(
            {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule"}
            | {"metadata": {"name": "a"}, "spec": {"host": "b"}}
        )
    )
    (tmp_path / "notes.txt").write_text("not: [a resource")
    result = run(str(tmp_path))
    assert result.return_value == 0
    assert "is given twice, first at" in result.output


@pytest.mark.parametrize(
    "args",
    [["validate"], ["validate", "/no/such/file"], ["validate", "-o", "xml", "-"]],
)
def test_usage_errors_exit_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert capsys.readouterr().err
