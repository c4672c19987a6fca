"""What the Docker CLI hands to a plugin before the plugin's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockermesh.cli.docker_options import take_docker_options
from dockermesh.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("before", "environment"),
    [
        ([], {}),
        (["--context", "prod"], {"DOCKER_CONTEXT": "prod"}),
        (["-c", "mesh"], {"DOCKER_CONTEXT": "mesh"}),
        (["--context=mesh"], {"DOCKER_CONTEXT": "mesh"}),
        (["-H", "ssh://vm"], {"DOCKER_HOST": "ssh://vm"}),
        (["-Hssh://vm"], {"DOCKER_HOST": "ssh://vm"}),
        (["-H=ssh://vm"], {"DOCKER_HOST": "ssh://vm"}),
        (["-DH", "tcp://h"], {"DOCKER_HOST": "tcp://h"}),
        (["-l", "debug", "-D"], {}),
        (["--config", "/c"], {"DOCKER_CONFIG": "/c"}),
        (["--tls"], {"DOCKER_TLS": "1"}),
        (["--tlsverify"], {"DOCKER_TLS": "1", "DOCKER_TLS_VERIFY": "1"}),
        (["--tlsverify=false", "--debug=true"], {"DOCKER_TLS": "1"}),
    ],
)
def test_dockers_options_end_in_the_environment(
    before: list[str], environment: dict[str, str]
) -> None:
    found: dict[str, str] = {}
    rest = take_docker_options([*before, "mesh", "ps", "-p", "mesh", "--tls=x"], found)
    assert (rest, found) == (["ps", "-p", "mesh", "--tls=x"], environment)


def test_options_win_over_the_environment() -> None:
    environment = {
        "DOCKER_HOST": "tcp://h",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_TLS": "1",
    }
    take_docker_options(["--context", "prod", "--tlsverify=0", "mesh"], environment)
    assert environment == {"DOCKER_CONTEXT": "prod", "DOCKER_TLS": "1"}


@pytest.mark.parametrize(
    "args",
    [["-H", "a", "-c", "b", "mesh"], ["--nope", "mesh"], ["--tls=perhaps", "mesh"]],
)
def test_what_docker_refuses_is_a_usage_error(args: list[str]) -> None:
    with pytest.raises(UsageError):
        take_docker_options(args, {})


def test_certificates_are_found_wherever_they_are(tmp_path: Path) -> None:
    usual, mine = tmp_path / "usual", tmp_path / "mine.crt"
    usual.mkdir()
    mine.write_text("mine")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (usual / name).write_text(name)
    environment = {"DOCKER_CERT_PATH": str(usual)}
    take_docker_options(["--tlsverify", "--tlscert", str(mine), "mesh"], environment)
    folder = Path(environment["DOCKER_CERT_PATH"])
    found = [(folder / name).read_text() for name in ("ca.pem", "cert.pem", "key.pem")]
    assert found == ["ca.pem", "mine", "key.pem"]
    with pytest.raises(InputError, match="gone"):
        take_docker_options(["--tlskey", "/gone", "mesh"], {})
