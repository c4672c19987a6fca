"""A client's and a server's Envoy with the metrics that translation gives them, and the bootstrap's
part in that. Listeners are read from a file, so that they can be replaced as a control plane does.
"""

from __future__ import annotations

import asyncio
import datetime
import http.server
import json
import re
import socketserver
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
from bridge_rig import eventually
from policy_rig import serve
from ports import free_port, free_ports, own_address
from tls_rig import DEADLINE_S, Party, Proxy, bootstrap, request

from dockermesh.ca import Authority, new_material
from dockermesh.client.compose.mesh_files import pod_file
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
from dockermesh.model.canonical import facts_of, told_of_itself
from dockermesh.translate.envoy.names import METRICS_LISTENER
from dockermesh.translate.mesh.known_proxies import proxy_of
from dockermesh.translate.mesh.settings import MeshSettings, istio_config
from dockermesh.translate.mesh.state import MeshState, build_mesh
from dockermesh.translate.translator import Translator

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


def web() -> Workload:
    """The client's workload, with an address of its own for its metrics listener."""
    return Workload(
        id="web",
        name="shop/web-1",
        service="web",
        namespace="front",
        address=own_address(),
        labels={"app": "web", "version": "v1"},
        token_sha256="w",
    )


def db(http: int, tcp: int, rpc: int = 0) -> Workload:
    """The server's, with one, too; it speaks gRPC if there is a port for that."""
    ports = (
        ServedPort("db", http, "http"),
        ServedPort("raw", tcp, "tcp"),
        *([ServedPort("rpc", rpc, "grpc")] if rpc else []),
    )
    labels = {"app": "db", "version": "v2", "app.kubernetes.io/name": "store"}
    return Workload(
        id="db",
        name="shop/db-v2-1",
        service="db",
        address=own_address(),
        labels=labels,
        ports=ports,
        token_sha256="d",
    )


def _services(server: Workload) -> dict[str, Service]:
    """What the server serves."""
    made = [
        Service(
            port.service,
            f"{port.service}.service.consul",
            (Port(port.port, Protocol(port.protocol)),),
            (Endpoint("127.0.0.1", port.port, workload="shop/db-v2-1"),),
        )
        for port in server.ports
    ]
    return {service.hostname: service for service in made}


def mesh(client: Workload, server: Workload, *apps: int, config: str = "") -> MeshState:
    """The mesh, in which the server's apps listen elsewhere than its proxy: one for each port."""
    ingress = [
        {
            "port": {
                "number": port.port,
                "name": port.protocol,
                "protocol": port.protocol.upper(),
            },
            "defaultEndpoint": f"127.0.0.1:{app}",
        }
        for port, app in zip(server.ports, apps, strict=True)
    ]
    text = f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: db}}
spec:
  workloadSelector: {{labels: {{app: db}}}}
  ingress: {json.dumps(ingress)}
---
{config}
"""
    read = read_text(text.encode(), "rig")
    assert not read.findings, read.findings
    catalog = Catalog(_services(server), {w.name: w for w in (client, server)})
    return build_mesh(
        catalog, config=istio_config(read.resources), settings=MeshSettings()
    )


class Member(Party):
    """A workload with the certificate that the control plane would give it."""

    def __init__(self, folder: Path, authority: Authority, workload: Workload) -> None:
        identity = workload.identity("cluster.local")
        super().__init__(
            folder, authority, identity.namespace, identity.service_account
        )
        facts = facts_of(workload.name, workload.namespace, workload.labels)
        leaf = authority.issue_workload(
            identity, datetime.timedelta(hours=1), facts=facts.text
        )
        self.chain.write_bytes(leaf.certificate)
        self.key.write_bytes(leaf.key)


class Meter:
    """A workload's Envoy, whose listeners can be replaced."""

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        workload: Workload,
        listeners: Mapping[str, tuple[str, int]],
        state: MeshState,
    ) -> None:
        self.workload = workload
        self._folder, self._listeners = folder, listeners
        self._member = Member(folder, authority, workload)
        self._stats = free_port()
        self._version = 0
        self._proxy = Proxy(
            folder / "envoy.json",
            self._whole(self._replace_listeners(state)),
            [self._stats],
            options=("--concurrency", "2", "--drain-time-s", "1"),
            environment=told_of_itself(
                workload.name, workload.namespace, workload.labels
            ),
        )

    async def take(self, state: MeshState) -> None:
        """Have it take what translation makes of this state, in listeners that were replaced."""
        self._replace_listeners(state)
        await self._replaced()

    def _replace_listeners(self, state: MeshState) -> dict[str, Any]:
        """Write them where Envoy reads them; the bootstrap that has them, too."""
        translator = Translator()
        translator.update(state)
        snapshot = translator.snapshot(proxy_of(self.workload, {}))
        copied = {**self._listeners, METRICS_LISTENER: (METRICS_LISTENER, 15090)}
        made = bootstrap(snapshot, self._member, 0, copied)
        listeners = made["staticResources"]["listeners"]
        for listener in listeners:
            if listener["name"] == METRICS_LISTENER:
                listener["address"]["socketAddress"]["address"] = self.workload.address
        self._version += 1
        listed = {
            "version_info": str(self._version),
            "resources": [{"@type": LISTENER, **listener} for listener in listeners],
        }
        fresh = self._folder / "lds.new"
        fresh.write_text(json.dumps(listed))
        fresh.rename(self._folder / "lds.json")
        return made

    def _whole(self, made: dict[str, Any]) -> dict[str, Any]:
        """With what the bootstrap of a pod has for metrics."""
        values = {"RUN": str(self._folder), "CONTROL_PLANE_PORT": "1"}
        pod = json.loads(pod_file("bootstrap.json", values))
        for part in (
            "bootstrap_extensions",
            "stats_config",
            "stats_eviction_interval",
        ):
            made[part] = pod[part]
        own = made["staticResources"]
        (reader,) = (
            item
            for item in pod["static_resources"]["listeners"]
            if item["name"] == "prometheus"
        )
        reader["address"]["socket_address"]["port_value"] = self._stats
        own["listeners"] = [reader]
        (admin,) = (
            item
            for item in pod["static_resources"]["clusters"]
            if item["name"] == "proxy-admin"
        )
        own["clusters"].append(admin)
        pipe = {"pipe": {"path": f"{self._folder}/admin.sock", "mode": 0o600}}
        made["admin"]["address"] = pipe
        source = {"path": f"{self._folder}/lds.json"}
        watched = {"path": str(self._folder)}
        made["dynamic_resources"] = {
            "lds_config": {
                "path_config_source": source | {"watched_directory": watched},
                "resource_api_version": "V3",
            }
        }
        return made

    async def __aenter__(self) -> Self:
        await self._proxy.__aenter__()
        await self._replaced()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._proxy.__aexit__()

    @property
    def pid(self) -> int:
        """Of the running Envoy."""
        return self._proxy.pid

    async def _read(self, path: str) -> tuple[int, Any]:
        return await request(self._stats, path=path)

    async def series(self, prefix: str = "") -> list[tuple[str, dict[str, str], float]]:
        """Name, labels and value of all series."""
        _, text = await self._read("/stats/prometheus")
        return [row for row in parsed(text.splitlines()) if row[0].startswith(prefix)]

    async def total(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """The sums of a metric by labels."""
        found: Counter[tuple[str, ...]] = Counter()
        for metric, told, value in await self.series(name):
            if metric == name:
                found[tuple(told.get(label, "") for label in labels)] += int(value)
        return found

    async def _replaced(self) -> None:
        """Wait until it has taken the listeners that were written last."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                got = await self.total("envoy_listener_manager_lds_update_success")
                if got[()] >= self._version:
                    return
                await asyncio.sleep(0.05)

    async def drained(self) -> None:
        """Wait until nothing is left of listeners, and filter chains, that were replaced."""

        async def is_gone() -> bool:
            left = ("total_listeners_draining", "total_filter_chains_draining")
            found = [await self.total(f"envoy_listener_manager_{n}") for n in left]
            return not any(total[()] for total in found)

        await eventually(is_gone, 30)


def parsed(lines: Iterable[str]) -> Iterable[tuple[str, dict[str, str], float]]:
    """Prometheus' text format."""
    for line in lines:
        if found := re.match(r"(\w+)\{(.*)\} (\S+)$", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2]))
            yield found[1], labels, float(found[3])


class _Codes(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        code = int(self.path.strip("/"))
        body = json.dumps(dict(self.headers.items())).encode() if code == 200 else b""
        self.send_response(code)
        if code != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Answering(grpc.GenericRpcHandler):
    """Ends a call with the status that its method names, in as many messages as it is asked for."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        status = grpc.StatusCode[details.method.rpartition("/")[2]]

        def answer(request: bytes, context: grpc.ServicerContext) -> Iterable[bytes]:
            yield from (b"x" for _ in range(int(request)))
            if status is not grpc.StatusCode.OK:
                context.abort(status, "as asked")

        return grpc.unary_stream_rpc_method_handler(answer)


class _Twice(socketserver.BaseRequestHandler):
    """Sends all that it gets back, twice."""

    def handle(self) -> None:
        with suppress(OSError):
            while data := self.request.recv(10_000):
                self.request.sendall(data * 2)


@dataclass(frozen=True)
class World:
    """Both proxies, and where they take what: the client's HTTP, bytes and gRPC, the server's
    HTTP.
    """

    web: Meter
    db: Meter
    http: int
    tcp: int
    rpc: int
    plain: int
    authority: Authority
    folder: Path
    apps: tuple[int, int, int]

    @property
    def workloads(self) -> dict[str, Workload]:
        """By name."""
        return {m.workload.name: m.workload for m in (self.web, self.db)}

    async def take(self, config: str = "") -> None:
        """Have both proxies take the mesh with this config."""
        state = mesh(self.web.workload, self.db.workload, *self.apps, config=config)
        for meter in (self.web, self.db):
            await meter.take(state)

    async def drained(self) -> None:
        """Wait until both serve by the newest config alone."""
        for meter in (self.web, self.db):
            await meter.drained()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    """Apps that answer with the code that is asked for, and with all bytes twice; and the
    proxies.
    """
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    twice = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Twice)
    threading.Thread(target=twice.serve_forever, daemon=True).start()
    calls = grpc.server(ThreadPoolExecutor(2))
    calls.add_generic_rpc_handlers((_Answering(),))
    rpc_app = calls.add_insecure_port("127.0.0.1:0")
    calls.start()
    apps = (serve(_Codes), int(twice.server_address[1]), rpc_app)
    served, tcp, rpc, of_http, of_tcp, of_rpc = free_ports(6)
    caller, server = web(), db(served, tcp, rpc)
    state = mesh(caller, server, *apps)
    vip = state.vips["raw.service.consul"]
    client = Meter(
        folder / "web",
        authority,
        caller,
        {
            "http": (f"0.0.0.0_{served}", of_http),
            "tcp": (f"{vip}_{tcp}", of_tcp),
            "rpc": (f"0.0.0.0_{rpc}", of_rpc),
        },
        state,
    )
    proxy = Meter(
        folder / "db",
        authority,
        server,
        {
            "one": ("virtualInbound", served),
            "two": ("virtualInbound", tcp),
            "three": ("virtualInbound", rpc),
        },
        state,
    )
    async with client, proxy:
        ports = (of_http, of_tcp, of_rpc, served)
        yield World(client, proxy, *ports, authority, folder, apps)
    calls.stop(None)
    twice.shutdown()
    twice.server_close()


async def send(world: World, codes: list[int], header: str = "") -> None:
    answers = [
        (await request(world.http, host="db", path=f"/{code}", header=header))[0]
        for code in codes
    ]
    assert answers == codes
