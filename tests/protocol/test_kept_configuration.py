"""A proxy goes on, crashes, restarts and comes back while no control plane is there: the script of
the image with a real Envoy, in a network namespace of its own.
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy_binary import envoy_binary
from kept_plane import WORKLOAD
from patience import SLACK, until

pytestmark = pytest.mark.binary
IMAGES = Path(__file__).parents[2] / "compose/images"
APP = """
import http.server
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 9001), App)
print("up", flush=True)
server.serve_forever()
"""
# A new connection each, which waits as those of apps do while a proxy is away.
CALL = """
import http.client, os, ssl, sys
tls = ssl.create_default_context(cafile=sys.argv[1]); tls.check_hostname = False
def call(path):
    connection = http.client.HTTPSConnection("127.0.0.1", 9000, context=tls, timeout=60)
    connection.request("GET", path)
    return connection.getresponse().status
if sys.argv[2] != "load":
    print(call(sys.argv[2]))
else:
    print("up", flush=True)
    seen = {}
    while True:
        try: answer = str(call("/"))
        except Exception as error: answer = repr(error)
        seen[answer] = seen.get(answer, 0) + 1
        if os.path.exists(sys.argv[3]): break
    print(seen)
"""


class Machine:
    """A namespace with a proxy's directories, the app, and processes that are ended at last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.name = f"kept-{secrets.token_hex(3)}"
        self._processes: list[subprocess.Popen[str]] = []
        for made in (self.run, folder / "scratch"):
            made.mkdir()
        (folder / "token").write_text("7" * 64)
        self._write_bootstrap()
        binary = folder / "envoy"
        binary.symlink_to(envoy_binary())

    def _write_bootstrap(self) -> None:
        values = {
            "NODE_ID": f"sidecar~127.0.0.1~{WORKLOAD}.default~default.svc.cluster.local",
            "SERVICE": "web",
            "WORKLOAD": WORKLOAD,
            "NAMESPACE": "default",
            "CONTROL_PLANE_HOST": "127.0.0.1",
            "CONTROL_PLANE_PORT": "15012",
            "RUN": str(self.run),
            "TOKEN": "7" * 64,
            "TRUST": str(self.folder / "trust"),
        }
        for source, target in (("bootstrap", "envoy"), ("trust", "trust")):
            text = (IMAGES / f"pod/{source}.json").read_text()
            for name, value in values.items():
                text = text.replace(f"@{name}@", value)
            (self.run / f"{target}.json").write_text(text)

    def start(self, *command: str, log: str = "") -> subprocess.Popen[str]:
        """In the namespace, with a /dev/shm of its own: hot restart has names there."""
        environment = os.environ | {
            "DOCKERMESH_RUN": str(self.run),
            "DOCKERMESH_SCRATCH": str(self.folder / "scratch"),
        }
        output = (self.folder / log).open("a") if log else subprocess.PIPE
        own = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "sh", "-c", own, "sh", *command],
            stdout=output,
            stderr=output if log else None,
            text=True,
            env=environment,
        )
        self._processes.append(process)
        return process

    def up(self, *command: str) -> subprocess.Popen[str]:
        process = self.start(sys.executable, *command)
        assert process.stdout and process.stdout.readline() == "up\n"
        return process

    def plane(self, policy: str) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("kept_plane.py")
        return self.up(str(script), str(self.folder), policy)

    def proxy(self) -> subprocess.Popen[str]:
        return self.start(
            *("bash", str(IMAGES / "proxy/proxy")),
            str(self.folder / "envoy"),
            *("-c", str(self.run / "envoy.json")),
            *("--concurrency", "1", "--log-level", "warning", "--drain-time-s", "2"),
            "--disable-hot-restart",
            log="proxy.log",
        )

    def call(self, path: str) -> str:
        root = str(self.folder / "trust/root.pem")
        caller = self.start(sys.executable, "-c", CALL, root, path)
        return caller.communicate(timeout=100 * SLACK)[0].strip()

    def load(self) -> subprocess.Popen[str]:
        root, end = str(self.folder / "trust/root.pem"), str(self.folder / "end")
        return self.up("-c", CALL, root, "load", end)

    def said(self) -> str:
        return (self.folder / "proxy.log").read_text()

    def close(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                process.wait(30 * SLACK)


@pytest.fixture
def machine() -> Iterator[Machine]:
    if os.geteuid() != 0 or not shutil.which("ip"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "network namespaces: needs root and iproute2"
        )
    # Short: a path of a unix socket has a limit.
    folder = Path(tempfile.mkdtemp(prefix="dm-kept-", dir="/tmp"))
    machine = Machine(folder)
    subprocess.run(["ip", "netns", "add", machine.name], check=True)
    try:
        subprocess.run(
            ["ip", "-n", machine.name, "link", "set", "lo", "up"], check=True
        )
        yield machine
    finally:
        machine.close()
        subprocess.run(["ip", "netns", "del", machine.name], check=False)
        shutil.rmtree(folder)


def envoys(of: int) -> list[int]:
    children = Path(f"/proc/{of}/task/{of}/children").read_text().split()
    return [
        int(child)
        for child in children
        if "envoy" in Path(f"/proc/{child}/comm").read_text()
    ]


def test_a_proxy_needs_no_control_plane_to_start_again(machine: Machine) -> None:
    machine.up("-c", APP)
    plane, proxy = machine.plane("deny"), machine.proxy()
    kept = machine.run / "kept.json.gz"
    until(kept.exists, "what Envoy accepted is kept", 30)
    assert (machine.call("/"), machine.call("/denied")) == ("200", "403")
    assert machine.call("/plugin") == "403"

    content = gzip.decompress(kept.read_bytes()).decode()
    pair = json.loads(content)["resources"]["secrets"][0]["tls_certificate"]
    assert pair["private_key"] == pair["certificate_chain"]
    assert "7" * 64 not in content and "password" not in content

    plane.kill()
    plane.wait()
    (envoy,) = envoys(proxy.pid)
    os.kill(envoy, signal.SIGKILL)
    until((machine.run / "on-kept").exists, "Envoy runs again", 30)
    until(lambda: machine.call("/") == "200", "Envoy serves again", 30)
    assert machine.call("/denied") == "403"

    proxy.terminate()
    assert proxy.wait(30 * SLACK) == 0
    proxy = machine.proxy()
    until(lambda: machine.call("/") == "200", "Envoy serves what was kept", 30)
    assert (machine.call("/denied"), machine.call("/plugin")) == ("403", "403")
    with_password = machine.folder / "scratch/kept.json"
    until(lambda: not with_password.exists(), "what has the password is gone", 10)

    load = machine.load()
    machine.plane("allow")
    until(lambda: not (machine.run / "on-kept").exists(), "handed over", 60)
    assert machine.call("/denied") == "200", "what is in force now is what is served"
    until(lambda: len(envoys(proxy.pid)) == 1, "the Envoy of before is gone", 60)
    (machine.folder / "end").touch()
    assert load.stdout
    answers = json.loads(load.stdout.readline().replace("'", '"'))
    assert answers.keys() == {"200"}, answers
    assert "the control plane serves this proxy again" in machine.said()

    proxy.terminate()
    assert proxy.wait(30 * SLACK) == 0
    assert "7" * 64 not in machine.said()
    assert "PRIVATE KEY" not in machine.said()
