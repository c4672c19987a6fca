"""A real Envoy that runs what translation makes of Istio's resources, without a control plane, and
an app behind it.

The sidecar listens on its ports directly, as if 15006 had taken the connections over, and has
certificates of a CA made for the test. Gateways of several meshes share one process.
"""

from __future__ import annotations

import datetime
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from envoy_binary import envoy_binary
from patience import until

from dockermesh.ca.authority import Authority
from dockermesh.ca.material import new_material
from dockermesh.client.offline.render import snapshot_parts
from dockermesh.client.offline.static_bootstrap import static_bootstrap
from dockermesh.config.documents import read_text
from dockermesh.limiter.server import ServerIdentity
from dockermesh.model import (
    Catalog,
    Endpoint,
    Identity,
    Port,
    Protocol,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.translate.mesh.settings import MeshSettings, istio_config
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

TRUST_DOMAIN = "cluster.local"
SETTINGS = MeshSettings()


class App(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"path": self.path, "headers": headers}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_OPTIONS = do_GET

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


def serve(handler: type[http.server.BaseHTTPRequestHandler] = App) -> int:
    """A server on loopback for as long as the tests run; returns its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


@dataclass(frozen=True)
class Answer:
    """What came back; `seen` is what the app was asked, empty if it was not."""

    status: int
    text: str
    seen: Mapping[str, Any] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """A header that the app saw."""
        value: str | None = self.seen.get("headers", {}).get(name)
        return value


def ask(
    port: int,
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    *,
    host: str = "shop",
    method: str = "GET",
    tls: ssl.SSLContext | None = None,
    source: str = "127.0.0.1",
) -> Answer:
    """One request, sent byte for byte as it is given."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        *(f"{k}: {v}" for k, v in headers),
    ]
    text = "\r\n".join([*lines, "Connection: close", "Content-Length: 0", "", ""])
    data = exchange(port, text.encode("latin1"), tls=tls, source=source)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head:
        return Answer(0, "")
    status, content = int(head.split()[1]), body.decode("latin1")
    is_app = status == 200 and content.startswith("{")
    return Answer(status, content, json.loads(content) if is_app else {})


def exchange(
    port: int,
    data: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    source: str = "127.0.0.1",
) -> bytes:
    """What comes back on a connection: one HTTP response, or all; empty if it is closed without an
    answer.
    """
    received = b""
    at, own = ("127.0.0.1", port), (source, 0)
    with socket.create_connection(at, timeout=60, source_address=own) as plain:
        try:
            connection = (
                plain if tls is None else tls.wrap_socket(plain, server_hostname="shop")
            )
            connection.sendall(data)
            while not _is_whole(received) and (part := connection.recv(65536)):
                received += part
        except OSError:
            pass
    return received


def _is_whole(received: bytes) -> bool:
    """Whether this is all of an HTTP response: Envoy leaves the end of the connection to the client
    for a second.
    """
    head, ended, body = received.partition(b"\r\n\r\n")
    lengths = [
        line
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    return bool(ended and lengths) and len(body) >= int(lengths[0].partition(b":")[2])


class Certificates:
    """A CA, the sidecar's own certificate from it, and TLS contexts of its peers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = Authority(
            new_material(TRUST_DOMAIN, datetime.datetime.now(datetime.UTC))
        )
        (folder / "roots.pem").write_bytes(self._authority.roots_pem)

    def _pair(self, namespace: str, account: str) -> tuple[Path, Path]:
        leaf = self._authority.issue_workload(
            Identity(TRUST_DOMAIN, namespace, account)
        )
        chain, key = (
            self._folder / f"{namespace}-{account}.{kind}" for kind in ("pem", "key")
        )
        chain.write_bytes(leaf.certificate)
        key.write_bytes(leaf.key)
        return chain, key

    def limiter(self) -> ServerIdentity:
        """What the limiter shows, and whom it takes."""
        leaf = self._authority.issue_server([CONTROL_PLANE_HOST])
        roots = self._authority.roots_pem
        return ServerIdentity(leaf.certificate, leaf.key, roots, (TRUST_DOMAIN,))

    def peer(self, namespace: str, account: str) -> ssl.SSLContext:
        """How a proxy of this identity connects."""
        context = ssl.create_default_context(cafile=str(self._folder / "roots.pem"))
        context.check_hostname = False
        context.load_cert_chain(*self._pair(namespace, account))
        context.set_alpn_protocols(["istio"])
        return context

    def secrets(self) -> list[dict[str, Any]]:
        """The sidecar's own, under the names that its listeners use."""
        chain, key = ({"filename": str(file)} for file in self._pair("shop", "shop"))
        return [
            {
                "name": "default",
                "tlsCertificate": {"certificateChain": chain, "privateKey": key},
            },
            {
                "name": "ROOTCA",
                "validationContext": {
                    "trustedCa": {"filename": str(self._folder / "roots.pem")}
                },
            },
        ]


def service(
    name: str, target: int, *, port: int = 80, protocol: Protocol = Protocol.HTTP
) -> Service:
    """A service of one endpoint on loopback."""
    endpoint = Endpoint("127.0.0.1", target, service_port=port)
    return Service(name, f"{name}.service.consul", (Port(port, protocol),), (endpoint,))


def _parts(
    proxy: Proxy,
    config: str,
    services: Sequence[Service],
    settings: MeshSettings = SETTINGS,
) -> dict[str, list[dict[str, Any]]]:
    reading = read_text(config)
    assert not [f for f in reading.findings if f.is_error], reading.findings
    translator = Translator()
    catalog = Catalog({s.hostname: s for s in services}, {})
    translator.update(
        build_mesh(catalog, config=istio_config(reading.resources), settings=settings)
    )
    return snapshot_parts(translator.snapshot(proxy))


def gateway_parts(
    config: str,
    services: Sequence[Service],
    *,
    bridges: tuple[str, ...] = (),
    settings: MeshSettings = SETTINGS,
) -> dict[str, list[dict[str, Any]]]:
    """What a gateway is told; `bridges` are the host's addresses on its networks."""
    labels = {"istio": "ingressgateway"}
    own = Workload(
        id="gw",
        name="shop/gateway-1",
        kind=WorkloadKind.GATEWAY,
        labels=labels,
        bridges=bridges,
    )
    return _parts(
        Proxy(own.name, own.kind, labels=labels, workload=own),
        config,
        services,
        settings,
    )


def gateway_on(port: int) -> str:
    """A Gateway `edge` that takes HTTP for all hosts on a port, as first of some documents."""
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
"""


def sidecar_parts(
    config: str,
    ports: Mapping[int, tuple[str, int]],
    services: Sequence[Service],
    certificates: Certificates,
    settings: MeshSettings = SETTINGS,
) -> dict[str, list[dict[str, Any]]]:
    """What the sidecar of an app is told, with a listener for each of `ports`: protocol, and where
    the app listens.
    """
    own = Workload(
        id="shop",
        name="shop/shop-1",
        service="shop",
        namespace="shop",
        address="127.0.0.1",
    )
    ingress = [
        {
            "port": {"number": port, "protocol": protocol, "name": protocol},
            "defaultEndpoint": f"127.0.0.1:{target}",
        }
        for port, (protocol, target) in ports.items()
    ]
    spec = {"ingress": ingress, "egress": [{"hosts": ["*/*"]}]}
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "x", "namespace": "shop"},
    }
    config = f"{config}\n---\n{json.dumps(document | {'spec': spec})}"
    parts = _parts(
        Proxy(own.name, namespace="shop", address="127.0.0.1", workload=own),
        config,
        services,
        settings,
    )
    inbound = next(
        listener
        for listener in parts["listeners"]
        if listener["name"] == "virtualInbound"
    )
    inbound["listenerFilters"] = [
        f for f in inbound["listenerFilters"] if "original_dst" not in f["name"]
    ]
    listeners = []
    for number in ports:
        copy = json.loads(json.dumps(inbound)) | {"name": f"inbound-{number}"}
        copy["address"]["socketAddress"].update(address="127.0.0.1", portValue=number)
        listeners.append(copy)
    return {**parts, "listeners": listeners, "secrets": certificates.secrets()}


def _join(resources: dict[str, Any], others: dict[str, Any]) -> None:
    """Listeners of several meshes beside each other; a cluster of one name is there once."""
    resources["listeners"].extend(others["listeners"])
    known = {cluster["name"] for cluster in resources["clusters"]}
    resources["clusters"].extend(
        cluster for cluster in others["clusters"] if cluster["name"] not in known
    )


def outbound_parts(
    config: str, ports: Iterable[int]
) -> dict[str, list[dict[str, Any]]]:
    """What a client's sidecar is told of these services, with its listeners of HTTP `ports` on all
    addresses: the loopback network stands for the virtual ones.
    """
    parts = _parts(Proxy("shop/client-1", address="127.0.0.1"), config, ())
    wanted = {f"0.0.0.0_{port}" for port in ports}
    listeners = [entry for entry in parts["listeners"] if entry["name"] in wanted]
    for listener in listeners:
        del listener["bindToPort"]
    return {**parts, "listeners": listeners}


class Envoy:
    """A running Envoy."""

    def __init__(
        self,
        folder: Path,
        parts: Sequence[dict[str, list[dict[str, Any]]]],
        ports: Iterable[int],
    ) -> None:
        bootstraps = [static_bootstrap(part, "policies") for part in parts]
        joined = bootstraps[0]
        for other in bootstraps[1:]:
            _join(joined["staticResources"], other["staticResources"])
        joined["admin"] = {"address": {"pipe": {"path": str(folder / "admin.sock")}}}
        file = folder / "bootstrap.json"
        file.write_text(json.dumps(joined))
        self._log = folder / "envoy.log"
        with self._log.open("w") as log:
            command = [
                envoy_binary(),
                "-c",
                str(file),
                "-l",
                "error",
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "250",
            ]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for port in ports:
            until(partial(self._listens, port), f"Envoy listens on {port}", 30)

    def _listens(self, port: int) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
