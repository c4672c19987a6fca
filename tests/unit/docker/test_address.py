"""Which engine an environment means: the Docker CLI's own precedence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dockermesh.docker.address import (
    EngineTls,
    choose_engine,
    parse_host,
    resolve_engine,
)
from dockermesh.errors import InputError, UsageError


def a_config(
    home: Path, *, current: str = "", contexts: dict[str, object] | None = None
) -> Path:
    folder = home / ".docker"
    for name, endpoint in (contexts or {}).items():
        meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        meta.mkdir(parents=True)
        content = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
        (meta / "meta.json").write_text(json.dumps(content))
    folder.mkdir(exist_ok=True)
    if current:
        (folder / "config.json").write_text(json.dumps({"currentContext": current}))
    return folder


PROD = {"prod": {"Host": "tcp://prod:2375"}, "test": {"Host": "ssh://me@Test"}}


@pytest.mark.parametrize(
    ("environment", "url", "source"),
    [
        ({}, "tcp://prod:2375", "context prod"),
        ({"DOCKER_CONTEXT": "test"}, "ssh://me@Test", "context test"),
        ({"DOCKER_CONTEXT": "default"}, "unix:///var/run/docker.sock", "default"),
        (
            {"DOCKER_CONTEXT": "test", "DOCKER_HOST": "tcp://h"},
            "tcp://h:2375",
            "DOCKER_HOST",
        ),
        ({"DOCKER_CONTEXT": "", "DOCKER_HOST": ""}, "tcp://prod:2375", "context prod"),
    ],
)
def test_docker_host_wins_over_docker_context_and_that_over_the_current_one(
    tmp_path: Path, environment: dict[str, str], url: str, source: str
) -> None:
    a_config(tmp_path, current="prod", contexts=PROD)
    found = resolve_engine({"HOME": str(tmp_path), **environment})
    assert (found.url, found.source) == (url, source)


def test_without_any_setting_it_is_the_default_socket(tmp_path: Path) -> None:
    found = resolve_engine({"HOME": str(tmp_path)})
    assert (found.url, found.source, found.host) == (
        "unix:///var/run/docker.sock",
        "default",
        "",
    )
    assert found.is_socket
    assert found.socket_path == "/var/run/docker.sock"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("tcp://", "tcp://localhost:2375"),
        (":1234", "tcp://localhost:1234"),
        ("h:2", "tcp://h:2"),
        ("tcp://[::1]:5", "tcp://[::1]:5"),
        ("unix://", "unix:///var/run/docker.sock"),
        ("/run/x.sock", "unix:///run/x.sock"),
        (" ssh://u@h:2/p ", "ssh://u@h:2/p"),
    ],
)
def test_an_address_gets_dockers_defaults(text: str, url: str) -> None:
    assert parse_host(text) == url


@pytest.mark.parametrize(
    "text", ["http://h", "tcp://[::1]", "tcp://h:port", "unix://tcp://x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_host(text)


def test_the_host_of_an_address_is_its_name_from_here() -> None:
    hosts = ["tcp://docker:2376", "ssh://me@vm:22", "tcp://[fe80::1]:1", "unix:///x"]
    found = [resolve_engine({"DOCKER_HOST": host}).host for host in hosts]
    assert found == ["docker", "vm", "fe80::1", ""]


def test_tls_takes_its_files_from_the_certificates_folder(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    environment = {"DOCKER_CERT_PATH": str(tmp_path), "DOCKER_TLS_VERIFY": "1"}
    files = EngineTls(*(tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")))
    assert resolve_engine(environment).tls == files
    assert resolve_engine(environment).url == "tcp://localhost:2376"
    (tmp_path / "key.pem").unlink()
    assert resolve_engine(environment).tls == EngineTls(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(InputError, match=r"ca\.pem"):
        resolve_engine(environment)


def test_a_context_brings_its_own_tls_files_and_need_not_verify(tmp_path: Path) -> None:
    folder = a_config(
        tmp_path,
        contexts={"vm": {"Host": "tcp://vm:2376", "SkipTLSVerify": True}, "b": {}},
    )
    files = folder / "contexts" / "tls" / hashlib.sha256(b"vm").hexdigest() / "docker"
    files.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (files / name).touch()
    found = resolve_engine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "vm"})
    expected = EngineTls(
        files / "ca.pem", files / "cert.pem", files / "key.pem", verify=False
    )
    assert found.tls == expected
    assert found.selector == "--context vm"
    assert resolve_engine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "b"}).tls is None


def test_a_context_that_is_not_there_is_an_error_that_says_who_named_it(
    tmp_path: Path,
) -> None:
    folder = a_config(tmp_path, current="gone")
    with pytest.raises(InputError, match=r"no Docker context 'gone'") as raised:
        resolve_engine({"HOME": str(tmp_path)})
    assert str(folder / "config.json") in raised.value.fix
    with pytest.raises(InputError) as raised:
        resolve_engine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "away"})
    assert "DOCKER_CONTEXT" in raised.value.fix


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"Endpoints": {}}', '{"Endpoints": {"docker": 1}}']
)
def test_a_damaged_context_is_an_error_with_its_file(
    tmp_path: Path, content: str
) -> None:
    folder = a_config(tmp_path, contexts=PROD)
    file = next((folder / "contexts" / "meta").glob("*/meta.json"))
    for meta in file.parent.parent.glob("*/meta.json"):
        meta.write_text(content)
    with pytest.raises(InputError) as raised:
        resolve_engine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "prod"})
    assert raised.value.where.endswith("meta.json")


def test_a_damaged_config_is_an_error_and_never_another_engine(tmp_path: Path) -> None:
    folder = a_config(tmp_path, current="prod", contexts=PROD)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        resolve_engine({"HOME": str(tmp_path)})
    # It is not asked where something else decides.
    assert resolve_engine({"HOME": str(tmp_path), "DOCKER_HOST": "tcp://h"}).host == "h"


def test_no_home_at_all_is_the_default_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert resolve_engine({}).source == "default"


def test_host_and_context_together_are_refused_and_each_replaces_the_environments() -> (
    None
):
    with pytest.raises(UsageError):
        choose_engine({}, ["tcp://h"], "prod")
    with pytest.raises(UsageError):
        choose_engine({}, ["tcp://a", "tcp://b"])
    environment = {"DOCKER_HOST": "tcp://h"}
    choose_engine(environment, context="prod")
    assert environment == {"DOCKER_CONTEXT": "prod"}
    choose_engine(environment, ["ssh://vm"])
    assert environment == {"DOCKER_HOST": "ssh://vm"}
