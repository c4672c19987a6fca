"""Two real Envoys with what the translator makes of a mesh: a server's sidecar and a client's, both
on loopback.

Nothing is captured here, so the server listens on the ports that it serves, and its app elsewhere
(a Sidecar's `defaultEndpoint`); the client's listeners are bound to ports of their own.
"""

from __future__ import annotations

import asyncio
import datetime
import http.server
import json
import os
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from envoy_binary import envoy_binary
from patience import SLACK

from dockermesh.ca import Authority
from dockermesh.client.compose.mesh_files import pod_file
from dockermesh.client.offline.render import snapshot_parts
from dockermesh.client.offline.static_bootstrap import static_bootstrap
from dockermesh.model import Identity
from dockermesh.xds import Snapshot

DEADLINE_S = 30.0 * SLACK


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        body = json.dumps(
            {name.lower(): value for name, value in self.headers.items()}
        ).encode()
        self.send_response(200)
        if self.path.startswith("/unreached"):
            self.send_header("x-dockermesh-unreached", "1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Greeter(socketserver.BaseRequestHandler):
    """Speaks first, as databases do, then answers in capitals."""

    def handle(self) -> None:
        with suppress(OSError):
            self.request.sendall(b"hello\n")
            while data := self.request.recv(1000):
                self.request.sendall(data.upper())


class Apps:
    """An HTTP app that tells which headers it got, a TCP app, and one that speaks TLS of its
    own.
    """

    def __init__(self, own_tls: ssl.SSLContext) -> None:
        self._servers: list[socketserver.BaseServer] = [
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo),
            socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Greeter),
        ]
        secure = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
        secure.socket = own_tls.wrap_socket(
            secure.socket, server_side=True, do_handshake_on_connect=False
        )
        self._servers.append(secure)
        for server in self._servers:
            threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
            ).start()
        self.http, self.tcp, self.https = (
            int(s.server_address[1]) for s in self._servers
        )  # type: ignore[index]

    def deliveries(self, path: str) -> int:
        """How often a path was asked for."""
        return _Echo.seen[path]

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Party:
    """Who has a certificate of an authority, as files and as the secrets of a proxy."""

    def __init__(
        self, folder: Path, authority: Authority, namespace: str, account: str
    ) -> None:
        leaf = authority.issue_workload(
            Identity("cluster.local", namespace, account), datetime.timedelta(hours=1)
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.chain, self.key, self.root = (
            folder / "chain.pem",
            folder / "key.pem",
            folder / "root.pem",
        )
        self.chain.write_bytes(leaf.certificate)
        self.key.write_bytes(leaf.key)
        self.root.write_bytes(authority.roots_pem)

    @property
    def secrets(self) -> list[dict[str, Any]]:
        pair = {
            "certificateChain": {"filename": str(self.chain)},
            "privateKey": {"filename": str(self.key)},
        }
        return [
            {"name": "default", "tlsCertificate": pair},
            {
                "name": "ROOTCA",
                "validationContext": {"trustedCa": {"filename": str(self.root)}},
            },
        ]

    def context(self, *protocols: str) -> ssl.SSLContext:
        """What this party uses to call a proxy without one of its own; who answers is not
        checked.
        """
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        made.load_cert_chain(self.chain, self.key)
        if protocols:
            made.set_alpn_protocols(list(protocols))
        return made


def bootstrap(
    snapshot: Snapshot,
    party: Party,
    admin: int,
    listeners: Mapping[str, tuple[str, int]],
) -> dict[str, Any]:
    """The proxy's bootstrap with only these listeners, each a copy of a translated one, bound to a
    port by its name.
    """
    parts = snapshot_parts(snapshot)
    known = {listener["name"]: listener for listener in parts["listeners"]}
    parts["listeners"] = []
    for name, (source, port) in listeners.items():
        address = {"socketAddress": {"address": "127.0.0.1", "portValue": port}}
        parts["listeners"].append(
            {**known[source], "name": name, "address": address, "bindToPort": True}
        )
    parts["secrets"] = party.secrets
    made = static_bootstrap(parts, "test")
    pod = json.loads(pod_file("bootstrap.json", {"CONTROL_PLANE_PORT": "1"}))
    made["layeredRuntime"] = pod["layered_runtime"]
    made["admin"]["address"]["socketAddress"]["portValue"] = admin
    return made


class Proxy:
    """A running Envoy."""

    def __init__(
        self,
        file: Path,
        config: dict[str, Any],
        ports: list[int],
        *,
        options: Sequence[str] = ("--concurrency", "1"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._file, self._ports, self._options = file, ports, options
        self._environment = {**os.environ, **(environment or {})}
        file.write_text(json.dumps(config))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        command = [envoy_binary(), "-c", str(self._file), *self._options]
        with self._file.with_suffix(".log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *("--use-dynamic-base-id", "-l", "warning"),
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        try:
            await self._until_it_listens()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _until_it_listens(self) -> None:
        assert self._process is not None
        async with asyncio.timeout(DEADLINE_S):
            for port in self._ports:
                while not await _listens(port):
                    if self._process.returncode is not None:
                        raise AssertionError(self._file.with_suffix(".log").read_text())
                    await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def request(
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "x",
    header: str = "",
    path: str = "/",
) -> tuple[int, Any]:
    """Status and body of one GET; 0 if the connection was refused or ended without an answer."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            name = "outbound_.1_._.x" if tls is not None else None
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=tls, server_hostname=name
            )
            writer.write(
                f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{header}connection: close\r\n\r\n".encode()
            )
            answer = await reader.read()
            writer.close()
    except TimeoutError:
        raise  # an OSError, but no refusal
    except (OSError, ssl.SSLError):
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/"):
        return 0, answer
    is_chunked = b"transfer-encoding: chunked" in head.lower()
    text = (_joined(body) if is_chunked else body).decode()
    return int(head.split()[1]), json.loads(text) if text.startswith("{") else text


def _joined(chunks: bytes) -> bytes:
    """A body without what stands between its chunks."""
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size, 16)
        body, chunks = body + rest[:length], rest[length + 2 :] if length else b""
    return body


async def talk(
    port: int, *, tls: ssl.SSLContext | None = None, patience_s: float = DEADLINE_S
) -> bytes:
    """What a TCP app says to "shout", after its greeting; empty if the connection ends without an
    answer.
    """
    with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(patience_s):
            name = "outbound_.1_._.x" if tls is not None else None
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=tls, server_hostname=name
            )
            assert await reader.readexactly(6) == b"hello\n"
            writer.write(b"shout")
            answer = await reader.readexactly(5)
            writer.close()
            return answer
    return b""
