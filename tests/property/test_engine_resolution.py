"""For any environment, the engine is the one that the Docker CLI itself would talk to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tls_files import self_signed

from dockermesh.cli.docker_options import take_docker_options
from dockermesh.docker.address import resolve_engine
from dockermesh.errors import DockermeshError

NAMES = ("prod", "vm", "gone")
HOSTS = (
    "",
    "tcp://h",
    "h:7",
    ":8",
    "tcp://[::1]:9",
    "ssh://me@Vm:22/x",
    "unix:///x.sock",
    "ftp://x",
)

options = st.lists(
    st.sampled_from(
        [
            ("-c", "prod"),
            ("--context=vm",),
            ("--context", "gone"),
            ("--context", "default"),
            ("-H", "tcp://o:1"),
            ("-DHssh://o",),
            ("--tls",),
            ("--tlsverify",),
            ("--tlsverify=false",),
            ("--tls=false",),
        ]
    ),
    max_size=2,
)
environments = st.fixed_dictionaries(
    {},
    optional={
        "DOCKER_HOST": st.sampled_from(HOSTS),
        "DOCKER_CONTEXT": st.sampled_from(("", "default", *NAMES)),
        "DOCKER_TLS_VERIFY": st.sampled_from(("", "1")),
        "DOCKER_TLS": st.sampled_from(("", "1")),
        "DOCKER_CERT_PATH": st.sampled_from(("", "certificates", "empty")),
    },
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("docker") is None:
        pytest.skip("no docker command -> run: scripts/setup engine")
    home = tmp_path_factory.mktemp("home")
    (home / "empty").mkdir()
    (home / "certificates").mkdir()
    pair = self_signed(home, "engine")
    for name, text in (
        ("ca", pair.certificate),
        ("cert", pair.certificate),
        ("key", pair.key),
    ):
        (home / "certificates" / f"{name}.pem").write_text(text)
    files = f"ca={home}/certificates/ca.pem,skip-tls-verify=true"
    create(home, "prod", f"host=tcp://prod:2375,{files}")
    create(home, "vm", "host=ssh://me@vm")
    return home


def create(home: Path, name: str, endpoint: str) -> None:
    subprocess.run(
        ["docker", "context", "create", name, "--docker", endpoint],
        env=environment_of(home, {}),
        check=True,
        capture_output=True,
    )


def environment_of(home: Path, chosen: dict[str, str]) -> dict[str, str]:
    found = {
        "HOME": str(home),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        **chosen,
    }
    if chosen.get("DOCKER_CERT_PATH"):
        found["DOCKER_CERT_PATH"] = str(home / chosen["DOCKER_CERT_PATH"])
    return found


def docker_says(
    environment: dict[str, str], arguments: list[str]
) -> tuple[object, ...] | None:
    """Name, host, TLS files and verification of the context in use; None if it is refused."""

    def ask(*command: str) -> str:
        done = subprocess.run(
            ["docker", *arguments, "context", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode else done.stdout

    name = ask("show").strip()
    found = ask("inspect", name) if name else ""
    if not found:
        return None
    [context] = json.loads(found)
    endpoint = context["Endpoints"]["docker"]
    files = sorted(context["TLSMaterial"].get("docker") or ())
    return name, endpoint["Host"], files, endpoint["SkipTLSVerify"]


def we_say(
    environment: dict[str, str], arguments: list[str]
) -> tuple[object, ...] | None:
    try:
        take_docker_options([*arguments, "mesh"], environment)
        found = resolve_engine(environment)
    except DockermeshError:
        return None
    tls = found.tls
    files = (
        [file.name for file in (tls.ca, tls.certificate, tls.key) if file]
        if tls
        else []
    )
    name = found.context or "default"
    return name, found.url, sorted(files), tls is not None and not tls.verify


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(environments, st.sampled_from(("", "default", *NAMES)), options)
@pytest.mark.skipif(
    sys.platform != "linux", reason="Docker has other defaults elsewhere"
)
def test_every_environment_means_the_engine_that_docker_would_take(
    home: Path, chosen: dict[str, str], current: str, picked: list[tuple[str, ...]]
) -> None:
    (home / ".docker" / "config.json").write_text(
        json.dumps({"currentContext": current})
    )
    environment = environment_of(home, chosen)
    arguments = [part for option in picked for part in option]
    assert we_say(dict(environment), arguments) == docker_says(environment, arguments)
