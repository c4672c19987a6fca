"""Every command against an engine whose loopback is not ours: a CI job's service container, and a
mounted socket. Real dockerd, Consul, Envoy, kubectl.

Invariant: the tests share one mesh, which the first brings up and the last takes down.
"""

from __future__ import annotations

import json
import shlex
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from patience import SLACK, until
from remote_rig import CONTROL_PLANE_IMAGE, DOCKERMESH, THERE, RemoteEngine, inside, run
from tls_files import self_signed

pytestmark = pytest.mark.kubectl

APP = """
name: shop
services:
  web:
    image: {image}
    entrypoint: [python3, -m, http.server, "9080"]
    working_dir: /tmp
    environment: {{SERVICE_NAME: web, SERVICE_PROTOCOL: http}}
    expose: ["9080"]
    ports: ["{port}:9080"]
{more}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http: [{route: [{destination: {host: web}}]}]
"""
COMMANDS = {
    "ps -o name": "shop/web-1",
    "apply -f ROUTE": "web",
    "get virtualservices": "web",
    "explain gateway http://web/ --live": "as explained",
    "proxy-config clusters web-1": "web.service.consul",
    "proxy-status": "shop/web-1.default",
    "mtls status": "web.service.consul",
    "doctor": "2 proxies in sync",
    "history": "dockermesh apply",
    "forward -- kubectl get virtualservices": "web",
    "delete -f ROUTE": "deleted",
}


def mesh(env: Mapping[str, str], *words: str, check: bool = True) -> Any:
    """`dockermesh WORDS` from here."""
    return run(DOCKERMESH, *words, env=env, check=check)


def write(folder: Path, *, name: str = "shop", port: int = 9081, more: str = "") -> str:
    """The app's Compose file."""
    text = APP.format(image=CONTROL_PLANE_IMAGE, port=port, more=more)
    file = folder / "compose.yaml"
    file.write_text(text.replace("name: shop", f"name: {name}"))
    return str(file)


@pytest.fixture(scope="session")
def shop(
    engine: RemoteEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The app in the mesh: its Compose file."""
    file = write(tmp_path_factory.mktemp("shop"))
    mesh(engine.by_tcp(), "up", "-f", file, "--timeout", "120")
    yield file
    mesh(engine.by_socket(), "down", "-f", file, "-v", check=False)


def test_up_prints_urls_that_lead_to_the_engine_s_host(
    engine: RemoteEngine, shop: str
) -> None:
    done = mesh(engine.by_tcp(), "up", "-f", shop, "-o", "json")
    found = json.loads(done.stdout)
    assert found["urls"] == {"web": [f"http://{THERE}:30080"]}
    assert found["changed"] == []
    assert {w["name"]: w["xds"] for w in found["workloads"]} == {
        "shop/gateway-1": "SYNCED",
        "shop/web-1": "SYNCED",
    }
    with urllib.request.urlopen(found["urls"]["web"][0], timeout=5 * SLACK) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("way", ["tcp", "socket"])
def test_every_command_works_through_the_engine(
    engine: RemoteEngine, shop: str, way: str, tmp_path: Path
) -> None:
    env = engine.by_tcp() if way == "tcp" else engine.by_socket()
    route = tmp_path / "route.yaml"
    route.write_text(ROUTE)
    for line, expected in COMMANDS.items():
        done = mesh(env, *shlex.split(line.replace("ROUTE", str(route))))
        assert expected in done.stdout, f"{line}: {done.stdout}{done.stderr}"
    assert "no address" in mesh(env, "kubeconfig", "--print", check=False).stderr


def test_in_the_engine_s_own_network_the_published_port_is_used(
    engine: RemoteEngine, shop: str
) -> None:
    run_inside = [*inside(), DOCKERMESH]
    found = run(*run_inside, "kubeconfig", "--print", env=engine.by_socket())
    port = engine.settings["DOCKERMESH_API_PORT"]
    assert f"server: https://127.0.0.1:{port}" in found.stdout
    up = run(*run_inside, "up", "-f", shop, "-o", "json", env=engine.by_socket())
    assert json.loads(up.stdout)["urls"] == {"web": ["http://localhost:30080"]}


@pytest.mark.parametrize(
    "kind", ["silent", "with a certificate of its own", "plain HTTP"]
)
def test_an_impostor_on_our_loopback_gets_no_token(
    engine: RemoteEngine, shop: str, kind: str, tmp_path: Path
) -> None:
    token = engine.docker(
        "exec", "dockermesh-control-plane", "cat", "/var/lib/dockermesh/api.token"
    )
    names = ("DOCKERMESH_API_PORT", "DOCKERMESH_DEBUG_PORT")
    with ExitStack() as stack:
        heard = [
            stack.enter_context(impostor(int(engine.settings[name]), kind, tmp_path))
            for name in names
        ]
        assert "shop/web-1" in mesh(engine.by_socket(), "ps", "-o", "name").stdout
        assert mesh(engine.by_socket(), "get", "virtualservices").returncode == 0
    for said in map(bytes, heard):
        assert said.startswith(b"\x16\x03"), "it was not even asked"
        assert token.encode() not in said
        assert b"Bearer" not in said


def test_what_is_forwarded_is_gone_afterwards(engine: RemoteEngine, shop: str) -> None:
    show = 'stat -c %a "$KUBECONFIG" && echo "$KUBECONFIG" && kubectl config current-context'
    done = mesh(
        engine.by_tcp(), "forward", "--", "sh", "-c", f"{show}; exit 7", check=False
    )
    assert done.returncode == 7, done.stderr
    mode, path, context = done.stdout.split()
    assert (mode, context) == ("600", "dockermesh")
    assert not Path(path).parent.exists()


def test_forward_without_a_command_stays_until_it_is_told(
    engine: RemoteEngine, shop: str
) -> None:
    process = subprocess.Popen(
        [DOCKERMESH, "forward"],
        env=_with(engine.by_tcp()),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        name, _, path = (
            process.stdout.readline().strip().removeprefix("export ").partition("=")
        )
        run("kubectl", "get", "virtualservices", env={name: path})
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * SLACK) == 0
    assert not Path(path).exists()


def test_ports_are_asked_of_the_engine(
    engine: RemoteEngine, shop: str, tmp_path: Path
) -> None:
    other = write(tmp_path, name="other", port=30080)
    refused = mesh(engine.by_tcp(), "up", "-f", other, check=False).stderr
    assert "port 30080 is taken (container shop-gateway-pod-1 publishes it)" in refused
    with subprocess.Popen(
        [*inside(), "python3", "-c", _LISTEN], stdout=subprocess.PIPE
    ) as held:
        assert held.stdout is not None
        number = held.stdout.readline().decode().strip()
        moved = ("up", "-f", other, "--gateway-port", f"30080:{number}")
        refused = mesh(engine.by_tcp(), *moved, check=False).stderr
        held.terminate()
    assert (
        f"port {number} is taken (something listens there on the engine's host)"
        in refused
    )
    assert (
        engine.docker("ps", "-aq", "--filter", "label=com.docker.compose.project=other")
        == ""
    )


def test_a_port_that_is_taken_here_alone_is_free_there(
    engine: RemoteEngine, shop: str, tmp_path: Path
) -> None:
    with suppress(OSError), socket.create_server(("127.0.0.1", 30080)):
        pass
    with socket.create_server(("0.0.0.0", 0)) as ours:
        number = ours.getsockname()[1]
        file = write(tmp_path, name="other", port=30080)
        env = engine.by_tcp()
        try:
            up = mesh(
                env, "up", "-f", file, "--gateway-port", f"30080:{number}", "-o", "json"
            )
        finally:
            mesh(env, "down", "-f", file)
    assert json.loads(up.stdout)["urls"] == {"web": [f"http://{THERE}:{number}"]}


@pytest.mark.parametrize("setting", ["volume", "config file", "DOCKERMESH_CONFIG"])
def test_a_path_that_only_we_have_is_refused(
    engine: RemoteEngine, shop: str, tmp_path: Path, setting: str
) -> None:
    ours = tmp_path / "ours"
    more = {
        "volume": f"    volumes: ['{ours}/conf:/conf']",
        "config file": f"    configs: [c]\nconfigs: {{c: {{file: {ours}/conf}}}}",
    }
    file = write(tmp_path, name="other", port=30083, more=more.get(setting, ""))
    env = engine.by_tcp()
    if setting == "DOCKERMESH_CONFIG":
        env["DOCKERMESH_CONFIG"] = f"{ours}/conf"
    ours.mkdir()
    # The engine's file system is ours but for this directory.
    hide = f"mount -t tmpfs none {ours} && touch {ours}/conf && exec {DOCKERMESH} up -f {file}"
    done = run("unshare", "--mount", "sh", "-c", hide, env=env, check=False)
    assert done.returncode == 1
    there = f"{ours}/conf is here, but not on the engine's host tcp://{THERE}:2375"
    assert there in done.stderr
    assert setting != "DOCKERMESH_CONFIG" or "up --config DIR" in done.stderr
    assert not (ours / "conf").exists(), "the engine made it"


def test_ps_says_what_keeps_it_from_the_control_plane(
    engine: RemoteEngine, shop: str
) -> None:
    engine.docker("pause", "dockermesh-control-plane")
    try:
        paused = mesh(engine.by_tcp(), "ps", check=False).stderr
    finally:
        engine.docker("unpause", "dockermesh-control-plane")
    assert "the control plane is paused" in paused
    assert "without a control plane" not in paused
    engine.docker("stop", "dockermesh-control-plane")
    stopped = mesh(engine.by_tcp(), "ps", check=False).stderr
    engine.docker("start", "dockermesh-control-plane")
    assert "2 proxies run without a control plane" in stopped
    env = engine.by_tcp()
    until(lambda: "SYNCED" in mesh(env, "ps", check=False).stdout, "it is back")


def test_an_engine_with_tls_carries_the_connection_too(
    engine: RemoteEngine, shop: str
) -> None:
    engine.stop()
    engine.start(tls=True)
    try:
        env = engine.by_tls()
        up = mesh(env, "up", "-f", shop, "-o", "json")
        assert json.loads(up.stdout)["urls"] == {"web": [f"http://{THERE}:30080"]}
        # Two at once on one connection's engine, and answers that take more than one record.
        both = (
            "kubectl get --raw /openapi/v3 | wc -c & kubectl get virtualservices; wait"
        )
        assert mesh(env, "forward", "--", "sh", "-c", both).returncode == 0
        mesh(env, "down", "-f", shop, "-v")
        assert engine.docker("ps", "-aq") == ""
    finally:
        # The tests after this one know the engine without TLS.
        engine.stop()
        engine.start()


_LISTEN = (
    "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
    " print(s.getsockname()[1], flush=True); time.sleep(600)"
)


def _with(env: Mapping[str, str]) -> dict[str, str]:
    import os

    return {**os.environ, **env}


@contextmanager
def impostor(port: int, kind: str, folder: Path) -> Iterator[bytearray]:
    """Somebody else's server on our loopback, and all that it was told; TLS is looked into."""
    heard = bytearray()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    self_signed(folder, "localhost")
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with suppress(OSError), client:
            heard.extend(client.recv(1 << 16, socket.MSG_PEEK))
            if kind == "plain HTTP":
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            spoken = (
                tls.wrap_socket(client, server_side=True)
                if "certificate" in kind
                else client
            )
            while part := spoken.recv(1 << 16):
                heard.extend(part)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield heard
    finally:
        # Whoever waits in accept() would hold the port.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
