"""The mesh as plain `docker compose` starts it: what an app container reaches of it, and what it
does not.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import SLACK, until

MESH = ["docker", "compose", "-f", str(Path(__file__).parents[2] / "compose/mesh.yaml")]
CONSUL = "http://127.0.0.1:8500"
GATEWAY = "172.28.0.1"
NAME = "reachable-only-by-dns"

# Runs in the app's place. Prints the answer to a DNS question and, for each address, whether a
# connection was made.
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
name, gateway, patience, targets = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
labels = b"".join(bytes([len(p)]) + p.encode() for p in (name, "service", "consul"))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    asked.settimeout(30)
    asked.sendto(bytes.fromhex("12340100000100000000 0000") + labels + bytes.fromhex("0000010001"), (gateway, 53))
    address = socket.inet_ntoa(asked.recv(512)[-4:])
def answers(target):
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), patience) as connection:
            connection.sendall(b"GET /v1/agent/self HTTP/1.0\\r\\n\\r\\n")
            return connection.recv(64).decode()
    except OSError:
        return ""
with ThreadPoolExecutor(len(targets)) as asking:
    print(json.dumps({"dns": address, "answers": dict(zip(targets, asking.map(answers, targets)))}))
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def consul(method: str, path: str, body: object = None) -> str:
    request = urllib.request.Request(
        f"{CONSUL}{path}", data=json.dumps(body).encode(), method=method
    )
    with urllib.request.urlopen(request, timeout=5 * SLACK) as response:
        text: str = response.read().decode()
        return text


def until_consul_leads() -> None:
    """Wait until Consul answers with its present state: a leader that is just replaying its log
    knows an old one.
    """

    def leads() -> bool:
        try:
            return bool(consul("GET", "/v1/catalog/nodes?consistent"))
        except OSError:
            return False

    until(leads, "Consul has a leader")


@pytest.fixture(scope="module")
def mesh() -> Iterator[None]:
    """The mesh, up; taken down afterwards unless it was up before."""
    was_up = bool(run(*MESH, "ps", "-q"))
    subprocess.run([*MESH, "up", "-d", "--no-recreate"], check=True)
    until_consul_leads()
    yield
    if not was_up:
        subprocess.run([*MESH, "down", "-v"], check=True)


def address_of(container: str, network: str) -> str:
    return run(
        "docker",
        "inspect",
        container,
        "-f",
        f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}',
    ).strip()


@pytest.mark.docker
def test_an_app_reaches_consuls_dns_and_neither_its_api_nor_ours(mesh: None) -> None:
    consul(
        "PUT",
        "/v1/agent/service/register",
        {"Name": NAME, "Address": "172.28.9.9", "Port": 1},
    )
    behind = address_of("dockermesh-consul", "dockermesh-control")
    beside = address_of("dockermesh-control-plane", "dockermesh")
    barred = [
        f"{host}:{port}"
        for host in (behind, GATEWAY, "172.17.0.1")
        for port in (8500, 8300, 8600, 8080, 15014)
    ]
    apis = [f"{beside}:8080", f"{beside}:15014"]
    image = run(
        "docker", "inspect", "dockermesh-control-plane", "-f", "{{.Config.Image}}"
    ).strip()
    try:
        app = [
            "docker",
            "run",
            "--rm",
            "--network",
            "dockermesh",
            "--label",
            "SERVICE_IGNORE=true",
            "--entrypoint",
            "python3",
        ]
        until(
            lambda: json.loads(consul("GET", f"/v1/catalog/service/{NAME}?consistent")),
            "the catalog has it",
        )
        found = json.loads(run(*app, image, "-c", PROBE, NAME, GATEWAY, "3", *barred))
        answered = json.loads(
            run(*app, image, "-c", PROBE, NAME, GATEWAY, "60", *apis)
        )["answers"]
    finally:
        consul("PUT", f"/v1/agent/service/deregister/{NAME}")
    assert found["dns"] == "172.28.9.9"
    assert found["answers"] == dict.fromkeys(barred, "")
    for api in apis:
        assert answered[api].startswith(("HTTP/1.0 401", "HTTP/1.1 401")), api


@pytest.mark.docker
def test_consul_is_the_same_server_after_a_restart(mesh: None) -> None:
    consul("PUT", "/v1/kv/dockermesh-test", "kept")
    try:
        run("docker", "restart", "dockermesh-consul")
        until_consul_leads()
        assert consul("GET", "/v1/kv/dockermesh-test?raw") == '"kept"'
    finally:
        consul("DELETE", "/v1/kv/dockermesh-test")
