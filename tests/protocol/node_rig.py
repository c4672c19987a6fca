"""A node's proxy, stock Envoy with no more rights than it needs, and workloads in network
namespaces of their own.

Every namespace has an address in 10.98.0.0/24 on one bridge; Envoy runs in the machine's own, from
which none of these can be reached: what it calls leaves from the namespace of a client.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from envoy_binary import envoy_binary
from patience import until

from dockermesh.client.compose.mesh_files import pod_file
from dockermesh.model.contract import PROXY_UID
from dockermesh.nodeagent import capture, namespaces

_RIGHTS = "-all,+sys_admin,+net_admin"

APP = """
import http.server, json, sys
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        seen = {"peer": self.client_address[0], "client": self.headers.get("x-forwarded-client-cert", ""),
                "app": sys.argv[2], "path": self.path}
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("0.0.0.0", int(sys.argv[1])), App).serve_forever()
"""
GREETER = """
import socketserver, sys
class App(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"hello {self.client_address[0]}\\n".encode())
        while data := self.request.recv(1000):
            self.request.sendall(data.upper())
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("0.0.0.0", int(sys.argv[1])), App).serve_forever()
"""
CLIENT = """
import collections, concurrent.futures, http.client, json, sys
address, port, host, count, fresh = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5] == "fresh"
def some(n):
    seen, connection = collections.Counter(), None
    for _ in range(n):
        try:
            if connection is None or fresh:
                connection = http.client.HTTPConnection(address, port, timeout=20)
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            body = answer.read().decode()
            seen[json.dumps([answer.status, body])] += 1
        except OSError as error:
            seen[json.dumps([0, type(error).__name__])] += 1
            connection = None
    return seen
workers = min(4, count)
with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    total = sum(pool.map(some, [count // workers] * workers), collections.Counter())
print(json.dumps([[*json.loads(key), n] for key, n in total.items()]))
"""


TALK = """
import socket, sys
said, heard = sys.stdin.buffer.read(), b""
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as connection:
    try:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(1000):
            heard += part
    except TimeoutError:
        raise
    except OSError:
        pass  # it was closed: also while its end was being said
sys.stdout.buffer.write(heard)
"""


def missing() -> str:
    """What this machine lacks; empty if it is all there."""
    if os.geteuid() != 0:
        return "needs root"
    tools = ("ip", "ss", "setpriv")
    return ", ".join(tool for tool in tools if not shutil.which(tool))


class Namespaces:
    """Network namespaces on one bridge, by short names."""

    def __init__(self, *names: str) -> None:
        self._tag = secrets.token_hex(3)
        self._names = names
        self._running: list[subprocess.Popen[str]] = []

    def path(self, name: str) -> str:
        return f"/run/netns/{self._full(name)}"

    def address(self, name: str) -> str:
        return f"10.98.0.{self._names.index(name) + 1}"

    def run(self, name: str, *command: str, feed: str = "") -> str:
        try:
            return subprocess.run(
                ["ip", "netns", "exec", self._full(name), *command],
                input=feed,
                text=True,
                check=True,
                capture_output=True,
            ).stdout
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise

    def capture(self, name: str) -> None:
        """As the agent does."""
        namespaces.within(self.path(name), self._capture)

    def _capture(self) -> None:
        namespaces.lead_back(PROXY_UID)
        capture.capture(is_held=False)

    def serve(self, name: str, code: str, port: int) -> None:
        """An app, listening when this returns."""
        where = ["ip", "netns", "exec", self._full(name)]
        app = [sys.executable, "-S", "-E", "-c", code, str(port), name]
        self._running.append(subprocess.Popen([*where, *app], text=True))
        until(lambda: f":{port} " in self.run(name, "ss", "-ltn"), f"{name} listens")

    def ask(
        self,
        name: str,
        address: str,
        port: int,
        host: str,
        count: int = 1,
        *,
        fresh: bool = False,
    ) -> list[tuple[int, Any, int]]:
        """Requests from there: each status and answer, and how often it came."""
        out = self.run(
            name, sys.executable, "-S", "-E", "-c", CLIENT,
            address, str(port), host, str(count), "fresh" if fresh else "kept",
        )  # fmt: skip
        return [
            (status, json.loads(body) if status == 200 else body, n)
            for status, body, n in json.loads(out)
        ]

    def talk(self, name: str, address: str, port: int, said: bytes) -> bytes:
        """What comes back on a connection on which this is said, until three bytes more than a
        greeting came or it ends.
        """
        return subprocess.run(
            ["ip", "netns", "exec", self._full(name), sys.executable, "-S", "-E", "-c", TALK,
             address, str(port)],
            input=said, check=True, capture_output=True,
        ).stdout  # fmt: skip

    def _full(self, name: str) -> str:
        return f"node-{self._tag}-{name}"

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in ("wire", *self._names):
            _ip("netns", "add", self._full(name))
            _ip("-n", self._full(name), "link", "set", "lo", "up")
        wire = self._full("wire")
        _ip("-n", wire, "link", "add", "br0", "type", "bridge")
        _ip("-n", wire, "link", "set", "br0", "up")
        for name in self._names:
            own, peer = self._full(name), f"to-{name}"
            _ip(
                *f"link add eth0 netns {own} type veth peer name {peer} netns {wire}".split()
            )
            _ip(*f"-n {wire} link set {peer} master br0 up".split())
            _ip(*f"-n {own} addr add {self.address(name)}/24 dev eth0".split())
            _ip(*f"-n {own} link set eth0 up".split())
            _ip(*f"-n {own} route add default via 10.98.0.254".split())

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for name in ("wire", *self._names):
            subprocess.run(
                ["ip", "netns", "del", self._full(name)],
                check=False,
                capture_output=True,
            )


class NodeProxy:
    """The Envoy of a node, with the pod's bootstrap but for the listeners that a pod has."""

    def __init__(self, node: str, token: str, xds: str, root: Path, admin: int) -> None:
        # Envoy's user has to reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="node-proxy-"))
        self.folder.chmod(0o755)
        self.admin = admin
        shutil.copy(root, self.folder / "root.pem")
        values = {
            "NODE_ID": node, "SERVICE": "node", "NAMESPACE": "default", "WORKLOAD": "node",
            "CONTROL_PLANE_HOST": "127.0.0.1", "CONTROL_PLANE_PORT": xds.rpartition(":")[2],
            "RUN": str(self.folder), "TRUST": str(self.folder), "TOKEN": token,
        }  # fmt: skip
        made = json.loads(pod_file("bootstrap.json", values))
        made["static_resources"]["listeners"] = []
        made["admin"]["address"] = {
            "socket_address": {"address": "127.0.0.1", "port_value": self.admin}
        }
        (self.folder / "bootstrap.json").write_text(json.dumps(made))
        (self.folder / "trust.json").write_bytes(pod_file("trust.json", values))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def rss_kib(self) -> int:
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(
            int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS")
        )

    def __enter__(self) -> Self:
        drop = ["setpriv", f"--reuid={PROXY_UID}", f"--regid={PROXY_UID}", "--clear-groups",
                "--no-new-privs", f"--inh-caps={_RIGHTS}", f"--ambient-caps={_RIGHTS}",
                f"--bounding-set={_RIGHTS}"]  # fmt: skip
        envoy = [envoy_binary(), "-c", str(self.folder / "bootstrap.json"), "--concurrency", "2",
                 "--use-dynamic-base-id", "--drain-time-s", "1", "-l", "warning"]  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*drop, *envoy], stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


def counted(answers: Iterable[tuple[int, Any, int]]) -> dict[tuple[int, str, str], int]:
    """Answers of APP by status, the address that it saw, and the identity that it was told."""
    found: dict[tuple[int, str, str], int] = {}
    for status, body, n in answers:
        seen = body if isinstance(body, dict) else {"peer": "", "client": str(body)}
        key = (status, seen["peer"], seen["client"].rpartition("URI=")[2])
        found[key] = found.get(key, 0) + n
    return found
