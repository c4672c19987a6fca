"""One mesh twice: a client's Envoy that carries requests to a server's in HTTP/2, and one that does
so in HTTP/1.1, as the user wished.

Each is asked the same, byte for byte, of a port that is declared as HTTP and of one that nobody
says anything of. What the app got and what its client got must not tell which of them it was.
"""

from __future__ import annotations

import datetime
import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from patience import SLACK
from ports import free_ports
from tls_rig import Party, Proxy, bootstrap

from dockermesh.ca import Authority, new_material
from dockermesh.config.documents import read_text
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.mesh.known_proxies import proxy_of
from dockermesh.translate.mesh.settings import MeshSettings, istio_config
from dockermesh.translate.mesh.state import MeshState, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot

PATIENCE_S = 20.0 * SLACK
KINDS = {"declared": Protocol.HTTP, "sniffed": Protocol.AUTO}
HTTP1 = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {h2UpgradePolicy: DO_NOT_UPGRADE}
"""


class Wire(socket.socket):
    """A client's connection."""

    @classmethod
    def to(cls, port: int, patience_s: float = PATIENCE_S) -> Wire:
        """A connection to a port of the loopback."""
        made = cls(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(patience_s)
        made.connect(("127.0.0.1", port))
        return made

    def send_text(self, text: str) -> None:
        """Send these characters as bytes."""
        self.sendall(text.encode("latin1"))

    def read_head(self) -> str:
        """All up to the end of a head; what there is if the connection ends before."""
        return read_head(self)

    def read_answer(self, *, has_body: bool = True) -> str:
        """One answer, interim ones included."""
        text = ""
        while True:
            head = self.read_head()
            text += head
            if not re.match(r"HTTP/1.[01] 1(?!01)", head):
                break
        return text + self._body(head) if has_body else text

    def _body(self, head: str) -> str:
        status = head.split(" ")[1:2]
        if status in (["204"], ["304"], ["101"]) or not head:
            return ""
        length = re.search(r"^content-length: *(\d+)", head, re.M | re.I)
        with suppress(ConnectionError):
            if length is not None:
                return read_exactly(self, int(length[1]))
            if re.search(r"^transfer-encoding: *chunked", head, re.M | re.I):
                return read_chunks(self)
            return read_all(self)
        return "<reset>"


def read_head(connection: socket.socket) -> str:
    """All up to the end of a head."""
    data, end = b"", b"\r\n\r\n"
    with suppress(ConnectionError):
        while not data.endswith(end):
            # What comes after it is left for others to read.
            there = connection.recv(65536, socket.MSG_PEEK)
            if not there:
                break
            found = (data + there).find(end)
            length = len(there) if found < 0 else found + len(end) - len(data)
            data += connection.recv(length)
    return data.decode("latin1")


def read_exactly(connection: socket.socket, length: int) -> str:
    """So many bytes, or fewer if the connection ends before."""
    data = bytearray()
    while len(data) < length and (part := connection.recv(length - len(data))):
        data += part
    return data.decode("latin1")


def read_chunks(connection: socket.socket) -> str:
    """A chunked body, with the sizes left out, as who passes it on may choose them; and its
    trailers.
    """
    text = ""
    while line := _read_line(connection):
        size = int(line.split(";")[0], 16)
        if not size:
            return text + "<end>" + _trailers(connection)
        text += read_exactly(connection, size)
        _read_line(connection)
    return text + "<cut off>"


def _trailers(connection: socket.socket) -> str:
    text = ""
    while line := _read_line(connection):
        text += f"\n{line}"
    return text


def _read_line(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n") and (part := connection.recv(1)):
        data += part
    return data.decode("latin1").removesuffix("\r\n")


def read_all(connection: socket.socket) -> str:
    """All up to the connection's end."""
    data = bytearray()
    while part := connection.recv(65536):
        data += part
    return data.decode("latin1")


Script = Callable[[socket.socket, str], None]
"""What an app does with a connection, on which it has read this head."""


@dataclass
class App:
    """A server that does what the test says for the path that is asked for; `seen` are the heads
    that it got, by path.
    """

    scripts: dict[str, Script] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            connection.settimeout(PATIENCE_S)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while head := read_head(connection):
                key = _key(head)
                self.seen[key].append(head)
                self.scripts.get(key, _echo)(connection, head)
                if re.search(r"^connection: close", head, re.M):
                    return


def _key(head: str) -> str:
    """The part of a request's target that scripts go by: up to the first `~`."""
    target = [*head.split(" ", 2), "", ""][1]
    return target.split("~")[0]


def body_of(connection: socket.socket, head: str) -> str:
    """The body of a request."""
    if re.search(r"^transfer-encoding: *chunked", head, re.M):
        return read_chunks(connection)
    length = re.search(r"^content-length: *(\d+)", head, re.M)
    return read_exactly(connection, int(length[1])) if length is not None else ""


def _echo(connection: socket.socket, head: str) -> None:
    """Answer with what came."""
    told = (head + body_of(connection, head)).encode("latin1")
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(told)
    connection.sendall(answer if head.startswith("HEAD ") else answer + told)


def says(text: str, *, then_close: bool = False) -> Script:
    """A script that reads the request and answers with these bytes."""

    def script(connection: socket.socket, head: str) -> None:
        body_of(connection, head)
        connection.sendall(text.encode("latin1"))
        if then_close:
            connection.shutdown(socket.SHUT_RDWR)

    return script


class Held:
    """A script that answers when the test says so, and knows whether its client is still there."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.gone = threading.Semaphore(0)

    def __call__(self, connection: socket.socket, request: str) -> None:
        body_of(connection, request)
        self.begun.release()
        connection.settimeout(0.05)
        while not self.go.is_set():
            with suppress(TimeoutError):
                if connection.recv(1) == b"":
                    self.gone.release()
                    return
        connection.settimeout(PATIENCE_S)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


_ALTERS = r"x-request-id|date|x-forwarded-for|traceparent|x-envoy-upstream-service-time|x-b3-\w+"


def plain(text: str) -> list[str]:
    """The text without what is another for every request, each of its lines by itself. In what
    order headers of different names come says nothing (RFC 9110, section 5.3).
    """
    text = re.sub(rf"^({_ALTERS}): [^\r]*", r"\1: *", text, flags=re.M | re.I)
    text = re.sub(r"By=[^;\r]*;Hash=[0-9a-f]+", "By=*", text)
    head, ended, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    # An echoed request is a body that has a head.
    rest = plain(body) if re.match(r"[^\n]* HTTP/1.1\r\n", body) else [body]
    return [
        first,
        *sorted(lines, key=lambda x: x.partition(":")[0].lower()),
        ended,
        *rest,
    ]


@dataclass(frozen=True)
class World:
    """Ports of the two clients' proxies, by what carries and by the kind of the port called; the
    apps behind.
    """

    app: App
    ports: Mapping[tuple[str, str], int]
    admins: Mapping[str, int]
    proxies: Mapping[str, Proxy]

    def ask(
        self,
        request: str,
        *,
        carried: str,
        kind: str,
        has_body: bool = True,
    ) -> str:
        """What comes back for these bytes."""
        with Wire.to(self.ports[carried, kind]) as wire:
            wire.send_text(request)
            return wire.read_answer(has_body=has_body)

    def counted(self, who: str, name: str) -> int:
        """The sum of a proxy's counters whose names end so."""
        return counted(self.admins[who], name)


def admin(port: int, method: str, path: str) -> str:
    """What Envoy's admin answers."""
    with Wire.to(port) as wire:
        wire.send_text(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n")
        wire.send_text("content-length: 0\r\n\r\n")
        return wire.read_answer()


def counted(port: int, name: str) -> int:
    """The sum of an Envoy's counters whose names end so."""
    text = admin(port, "GET", f"/stats?usedonly&filter={name}$")
    return sum(map(int, re.findall(rf"^[^\n]*{re.escape(name)}: (\d+)$", text, re.M)))


def app_elsewhere(name: str, app: int, ports: Iterable[tuple[int, Protocol]]) -> str:
    """A Sidecar: the app of the workload with this label listens elsewhere than its proxy."""
    lines = "\n".join(
        f"  - {{port: {{number: {number}, name: x{number}, protocol:"
        f" '{'' if protocol is Protocol.AUTO else protocol.value.upper()}'}},"
        f" defaultEndpoint: '127.0.0.1:{app}'}}"
        for number, protocol in ports
    )
    return f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}}}
spec:
  workloadSelector: {{labels: {{app: {name}}}}}
  ingress:
{lines}
"""


def meshed(
    text: str, services: Iterable[Service], workloads: Iterable[Workload]
) -> MeshState:
    """The mesh of these, configured by these resources."""
    reading = read_text(text)
    assert not [f for f in reading.findings if f.is_error], reading.findings
    catalog = Catalog({s.hostname: s for s in services}, {w.name: w for w in workloads})
    return build_mesh(
        catalog, config=istio_config(reading.resources), settings=MeshSettings()
    )


def snapshot_of(mesh: MeshState, workload: str) -> Snapshot:
    """What a workload's proxy has."""
    translator = Translator()
    translator.update(mesh)
    return translator.snapshot(proxy_of(mesh.workloads[workload], {}))


def outbound_listener(
    mesh: MeshState, service: str, port: int, protocol: Protocol
) -> str:
    """The name of the listener that takes calls of a service's port."""
    address = "0.0.0.0" if protocol.is_http else mesh.vips[f"{service}.service.consul"]
    return names.listener(address, port)


def _mesh(
    ports: Mapping[str, int], kinds: Mapping[str, Protocol], app: int, more: str
) -> MeshState:
    """The mesh, in which the server's app listens elsewhere than its proxy."""
    numbered = [(ports[kind], protocol) for kind, protocol in kinds.items()]
    services = [
        Service(
            kind,
            f"{kind}.service.consul",
            (Port(ports[kind], protocol),),
            (Endpoint("127.0.0.1", ports[kind], workload="shop/db-1"),),
        )
        for kind, protocol in kinds.items()
    ]
    served = tuple(ServedPort(k, ports[k], p.value) for k, p in kinds.items())
    server = Workload(
        "1", "shop/db-1", "db", address="127.0.0.1", labels={"app": "db"}, ports=served
    )
    client = Workload("2", "shop/web-1", "web", address="127.0.0.9")
    text = f"{app_elsewhere('db', app, numbered)}\n---\n{more}\n"
    return meshed(text, services, (server, client))


@asynccontextmanager
async def running(
    folder: Path,
    more: str = "",
    *,
    ways: Mapping[str, str] | None = None,
    kinds: Mapping[str, Protocol] = KINDS,
    backend: int = 0,
    has_http2: bool = True,
) -> AsyncIterator[World]:
    """The apps and three Envoys; `ways` are configurations of clients' meshes by what carries.
    `has_http2`: the server's proxy agrees on HTTP/2; at `backend` another app listens than ours.
    """
    ways = ways if ways is not None else {"HTTP/2": "", "HTTP/1.1": HTTP1}
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    web, db = (Party(folder / n, authority, "default", n) for n in ("web", "db"))
    app = App()
    taken = free_ports((len(kinds) + 1) * (len(ways) + 1))
    ports = {kind: taken.pop() for kind in kinds}
    admins, bound = {"server": taken.pop()}, {}
    proxies: dict[str, Proxy] = {}

    async with AsyncExitStack() as stack:
        mesh = _mesh(ports, kinds, backend or app.port, more)
        inbound = {f"in-{n}": ("virtualInbound", n) for n in ports.values()}
        config = bootstrap(
            snapshot_of(mesh, "shop/db-1"), db, admins["server"], inbound
        )
        if not has_http2:
            both, one = '["h2", "http/1.1"]', '["http/1.1"]'
            config = json.loads(json.dumps(config).replace(both, one))
        proxies["server"] = await stack.enter_async_context(
            Proxy(folder / "server.json", config, list(ports.values()))
        )
        for number, (way, text) in enumerate(ways.items()):
            admins[way] = taken.pop()
            own = [taken.pop() for _ in kinds]
            config_of_way = "\n---\n".join(t for t in (more, text) if t)
            mesh = _mesh(ports, kinds, backend or app.port, config_of_way)
            listeners = {}
            for (kind, protocol), port in zip(kinds.items(), own, strict=True):
                source = outbound_listener(mesh, kind, ports[kind], protocol)
                listeners[kind] = (source, port)
                bound[way, kind] = port
            config = bootstrap(
                snapshot_of(mesh, "shop/web-1"), web, admins[way], listeners
            )
            file = folder / f"client{number}.json"
            proxies[way] = await stack.enter_async_context(Proxy(file, config, own))
        yield World(app, bound, admins, proxies)


def soon(read: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not read():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
