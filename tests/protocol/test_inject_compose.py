"""The generator with the real `docker compose`: what it loads, and that it accepts what we
write.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dockermesh.cli.inject import command
from dockermesh.docker.compose import compose_command, load_project
from dockermesh.errors import EngineError, InputError

SHOP = """
name: shop
x-common: {a: 1}
services:
  web:
    image: nginx
    command: echo $$HOME
    environment: [EQ==, "DAY=2001-01-01", BLANK]
    ports: ["127.0.0.1:9081:9080", "53:53/udp", "8000-8001:8000-8001"]
    links: ["db:database"]
    labels: ["team=a$$b", "traffic.sidecar.istio.io/excludeInboundPorts=53"]
    sysctls: ["net.core.somaxconn=1024", "kernel.msgmax=65536"]
    x-owner: {since: 2001-01-01}
  db: {image: postgres, deploy: {replicas: 2}, volumes: ["./data:/data"], expose: ["5432"]}
  probe: {image: busybox, network_mode: "service:web", depends_on: [db]}
  host: {image: busybox, network_mode: host, depends_on: [db, web]}
"""
OLD = """
version: '2'
services:
  consumer:
    image: legacy/consumer
    expose: ["8080"]
    dns: [172.28.0.1, 8.8.8.8]
    dns_search: [service.consul]
    networks:
      envoymesh:
        ipv4_address: 172.28.0.20
networks:
  envoymesh:
    external: {name: consul_istiomesh}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def config(*files: Path) -> dict[str, Any]:
    options = [part for file in files for part in ("-f", str(file))]
    done = subprocess.run(
        ["docker", "compose", *options, "config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = yaml.load(done.stdout, Loader=yaml.BaseLoader)
    return loaded


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "compose.yaml"
    file.write_text(SHOP)
    return file


@pytest.mark.docker
def test_compose_reads_what_was_written(shop: Path) -> None:
    meshed = shop.with_name("meshed.yaml")
    done = run("-o", str(meshed))
    assert done.exit_code == 0 and done.stdout == ""
    assert "now 127.0.0.1:30080" in done.stderr and "host: left out" in done.stderr
    assert stat.S_IMODE(meshed.stat().st_mode) == 0o600
    services = config(meshed)["services"]
    assert services["web"]["command"] == ["echo", "$$HOME"]
    assert services["web"]["environment"] == {
        "EQ": "=",
        "DAY": "2001-01-01",
        "BLANK": "null",
    }
    assert services["web"]["x-owner"] == {"since": "2001-01-01T00:00:00Z"}
    assert "a$$b" in services["web-1-pod"]["labels"]["dockermesh.io/labels"]
    assert config(meshed)["x-common"] == {"a": "1"}


@pytest.mark.docker
def test_the_overlay_gives_the_same_project(shop: Path) -> None:
    meshed, sidecars = shop.with_name("meshed.yaml"), shop.with_name("sidecars.yaml")
    run("-o", str(meshed))
    assert run("--overlay", "-o", str(sidecars)).exit_code == 0
    assert config(shop, sidecars) == config(meshed)


@pytest.mark.docker
def test_old_style_file(tmp_path: Path) -> None:
    file, meshed = tmp_path / "docker-compose.yml", tmp_path / "meshed.yaml"
    file.write_text(OLD)
    assert (
        run(
            "-f",
            str(file),
            "-p",
            "old",
            "--network",
            "consul_istiomesh",
            "-o",
            str(meshed),
        ).exit_code
        == 0
    )
    pod = config(meshed)["services"]["consumer-1-pod"]
    assert pod["networks"] == {
        "envoymesh": {
            "aliases": ["consumer", "old-consumer-1"],
            "ipv4_address": "172.28.0.20",
        }
    }
    assert pod["dns"] == ["172.28.0.1", "8.8.8.8"] and pod["dns_search"] == [
        "service.consul"
    ]
    assert pod["expose"] == ["8080"]


@pytest.mark.docker
def test_the_same_bytes_twice(shop: Path) -> None:
    assert run().stdout == run().stdout != ""


PROFILES = """
name: shop
services:
  web:
    image: nginx
    depends_on: {debug: {condition: service_started, required: false}}
  debug: {image: busybox, profiles: [debug], volumes: ["kept:/kept"]}
volumes: {kept: {}}
"""


@pytest.mark.docker
@pytest.mark.parametrize("through_stdin", [False, True])
def test_services_of_other_profiles_are_written_with_their_profile(
    tmp_path: Path, through_stdin: bool
) -> None:
    file, meshed = tmp_path / "compose.yaml", tmp_path / "meshed.yaml"
    file.write_text(PROFILES)
    source, text = ("-", PROFILES) if through_stdin else (str(file), None)
    arguments = ["-f", source, "-o", str(meshed)]
    assert CliRunner().invoke(command, arguments, input=text).exit_code == 0

    assert set(config(meshed)["services"]) == {"web", "web-1-pod", "web-1-proxy"}
    whole = yaml.safe_load(meshed.read_text())
    assert whole["services"]["debug-1-pod"]["profiles"] == ["debug"]
    assert "kept" in whole["volumes"]


@pytest.mark.docker
def test_what_is_wrong_with_a_profile_that_is_not_enabled_is_in_nobodys_way(
    tmp_path: Path,
) -> None:
    file, meshed = tmp_path / "compose.yaml", tmp_path / "meshed.yaml"
    wrong = PROFILES.replace("image: busybox,", "image: busybox, env_file: nowhere,")
    file.write_text(wrong)
    loaded = load_project([str(file)])
    assert set(loaded.project["services"]) == {"web"} and "nowhere" in loaded.problem

    done = run("-f", str(file), "-o", str(meshed))
    assert done.exit_code == 0 and "nowhere" in done.stderr
    assert set(config(meshed)["services"]) == {"web", "web-1-pod", "web-1-proxy"}


@pytest.mark.docker
def test_no_compose_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no compose file") as raised:
        load_project()
    assert "-f FILE" in raised.value.fix


@pytest.mark.docker
@pytest.mark.parametrize(
    "text",
    [
        "services: [",
        "services: {web: {image: x, prots: []}}",
        "x-only: 1\nname: shop\n",
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as raised:
        load_project([str(file)])
    assert str(file) in raised.value.where
    assert raised.value.fix


def script(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def test_compose_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="docker command was not found"):
        load_project(env={"PATH": str(tmp_path)})
    script(
        tmp_path, "docker", "echo \"unknown shorthand flag: 'f' in -f\" >&2; exit 125"
    )
    with pytest.raises(EngineError, match="Compose was not found") as raised:
        load_project(env={"PATH": str(tmp_path)})
    assert "https://" in raised.value.fix


def test_only_compose_v1(tmp_path: Path) -> None:
    script(tmp_path, "docker", "exit 1")
    script(tmp_path, "docker-compose", "echo 1.29.2")
    with pytest.raises(EngineError, match=r"1\.29 is too old"):
        load_project(env={"PATH": str(tmp_path)})


def test_a_standalone_compose_v2_is_used(tmp_path: Path) -> None:
    script(tmp_path, "docker", "exit 1")
    script(
        tmp_path,
        "docker-compose",
        'if [ "$1" = version ]; then echo 2.30.1; else echo "services: {a: {}}"; fi',
    )
    env = {"PATH": str(tmp_path)}
    assert compose_command(env) == ("docker-compose",)
    assert load_project(env=env).project == {"services": {"a": {}}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind: [", "not valid YAML"),
        ("\x00", "not valid YAML"),
        (
            (
                "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: a}, spec:"
                " {server: []}}"
            ),
            "server",
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: Gatway, metadata: {name: a}}",
            "Gatway",
        ),
    ],
)
def test_config_that_is_not_valid_is_named(tmp_path: Path, text: str, why: str) -> None:
    from dockermesh.cli.inject import read_config

    (tmp_path / "gateway.yaml").write_text(text)
    with pytest.raises(InputError, match=why) as raised:
        read_config([str(tmp_path)])
    assert "gateway.yaml:" in raised.value.what


def test_a_pipe_or_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    """`inject -o /dev/null`, as root, must not leave a file in its place."""
    from dockermesh.cli.inject import write_private

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_private(pipe, "services: {}")
    assert os.read(reader, 99) == b"services: {}"
    os.close(reader)
    assert pipe.is_fifo()
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    link.symlink_to(real)
    write_private(link, "services: {}")
    assert (link.is_symlink(), real.read_text(), real.stat().st_mode & 0o777) == (
        True,
        "services: {}",
        0o600,
    )
