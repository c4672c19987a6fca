"""`dockermesh analyze`: exit codes, outputs, what is read, what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from dockermesh.cli.analyze import command
from dockermesh.cli.main import main

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 9080}]}
---
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v9}
"""
FIELDS = ("code", "level", "resource", "file", "line", "message")


def run(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command, args, input=stdin, standalone_mode=False)


def found(result: Result) -> list[tuple[str, str]]:
    return [
        (finding["code"], finding["resource"]) for finding in json.loads(result.stdout)
    ]


def test_an_error_exits_79_and_names_code_resource_and_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SERVICE + ROUTE)
    result = run(str(file))
    assert result.return_value == 79
    assert (
        f"Error [IST0101] (VirtualService default/reviews {file}:13) " in result.stdout
    )


def test_nothing_found_exits_0_and_says_so() -> None:
    result = run("-", stdin=SERVICE)
    assert result.return_value == 0
    assert "✔ No validation issues found when analyzing -." in result.stderr


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_findings_as_data(output: str) -> None:
    result = run("-", "-o", output, stdin=SERVICE + ROUTE)
    assert result.return_value == 79
    (finding,) = yaml.safe_load(result.stdout)
    assert tuple(finding) == FIELDS
    assert finding["code"] == "IST0101" and finding["line"] == 13


def test_no_findings_are_an_empty_list() -> None:
    assert json.loads(run("-", "-o", "json", stdin=SERVICE).stdout) == []


@pytest.mark.parametrize(
    ("threshold", "code"), [("Error", 0), ("warning", 79), ("Info", 79)]
)
def test_the_threshold_decides_what_fails(threshold: str, code: int) -> None:
    unverified = ROUTE.replace("VirtualService", "DestinationRule").partition("spec:")[
        0
    ]
    unverified += "spec: {host: reviews, trafficPolicy: {tls: {mode: SIMPLE}}}\n"
    result = run(
        "-", "--failure-threshold", threshold, "-o", "json", stdin=SERVICE + unverified
    )
    assert found(result) == [("IST0128", "DestinationRule default/reviews")]
    assert result.return_value == code


@pytest.mark.parametrize(
    "resource",
    ["VirtualService default/reviews", "VirtualService reviews.default", "Virt*", "*"],
)
def test_a_suppressed_finding_neither_shows_nor_fails(resource: str) -> None:
    result = run("-", "-S", f"IST0101={resource}", "-o", "json", stdin=SERVICE + ROUTE)
    assert (result.return_value, found(result)) == (0, [])


def test_an_annotation_suppresses_a_code_for_its_resource() -> None:
    quiet = ROUTE.replace(
        "{name: reviews}",
        "{name: reviews, annotations: {galley.istio.io/analyze-suppress: IST0101}}",
    )
    assert run("-", stdin=SERVICE + quiet).return_value == 0


def test_a_namespace_is_the_default_one_and_all_that_is_shown() -> None:
    other = ROUTE.replace("{name: reviews}", "{name: other, namespace: elsewhere}")
    result = run(
        "-", "-n", "shop", "-o", "json", stdin=SERVICE + ROUTE + "---\n" + other
    )
    assert found(result) == [("IST0101", "VirtualService shop/reviews")]


def test_folders_are_read_one_level_deep_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "service.yaml").write_text(SERVICE)
    (tmp_path / "deeper" / "route.yaml").write_text(ROUTE)
    assert run(str(tmp_path)).return_value == 0
    assert run(str(tmp_path), "-R").return_value == 79


def test_a_catalogs_services_are_called_by_the_domain_of_the_users_consul(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        "services: [{name: reviews, ports: [{port: 9080, protocol: http}]}]"
    )
    route = ROUTE.replace("[reviews]", "[reviews.service.acme]").replace(
        "{host: reviews, subset: v9}", "{host: reviews.service.acme}"
    )
    arguments = ("-", "--catalog", str(catalog), "-o", "json")
    assert ("IST0101", "VirtualService default/reviews") in found(
        run(*arguments, stdin=route)
    )

    monkeypatch.setenv("DOCKERMESH_CONSUL_DOMAIN", "acme")
    codes = {code for code, _ in found(run(*arguments, stdin=route))}
    assert codes == {"DM0001"}, "known, and without endpoints"


def test_a_catalog_stands_in_for_services_and_endpoints(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        "services:\n- {name: reviews, ports: [{number: 9080, protocol: HTTP}]}\n"
    )
    route = ROUTE.replace(", subset: v9", "")
    assert found(run("-", "-o", "json", stdin=route)) == [
        ("IST0101", "VirtualService default/reviews")
    ]
    with_catalog = run("-", "--catalog", str(catalog), "-o", "json", stdin=route)
    assert found(with_catalog) == [("DM0001", "VirtualService default/reviews")]


def test_a_mesh_config_moves_the_root_namespace(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text("rootNamespace: ops\n")
    policy = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: %s}
spec: {selector: {matchLabels: {app: gone}}}
"""
    (finding,) = json.loads(
        run("-", "--mesh-config", str(mesh), "-o", "json", stdin=policy % "ops").stdout
    )
    assert finding["code"] == "IST0127"


def test_unreadable_input_is_a_finding() -> None:
    result = run("-", "-o", "json", stdin="kind: [\n")
    assert (result.return_value, found(result)) == (79, [("DM0008", "")])


@pytest.mark.parametrize(
    "kind",
    ["", "kind: Nonsense\n", "kind: 3\napiVersion: []\n", "metadata: {name: x}\n"],
)
def test_objects_of_unknown_kinds_are_passed_over(kind: str) -> None:
    assert (
        found(run("-", "-o", "json", stdin=f"{kind}---\n{SERVICE}{ROUTE}"))[0][0]
        == "IST0101"
    )


def test_the_list_of_analyzers_names_every_code() -> None:
    result = run("-L")
    assert result.return_value == 0
    assert "IST0101" in result.stdout and "DM0001" in result.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["/no/such/file"],
        ["-o", "xml", "-"],
        ["-S", "IST0101", "-"],
        ["-n", "a", "-A", "-"],
        ["--catalog", "/c.yaml"],
    ],
)
def test_usage_errors_exit_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["analyze", *args])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(("Error: ", "Usage: "))


def test_a_suppression_of_no_known_code_is_told() -> None:
    assert (
        "there is no code 'IST9999'"
        in run("-", "-S", "IST9999=*", stdin=SERVICE).stderr
    )
