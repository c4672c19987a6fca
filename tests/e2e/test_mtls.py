"""Encryption between pods: nothing readable on the wire, STRICT for everybody outside, and no
impostor is believed.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import socket
import ssl
import struct
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from mesh_rig import HEALS_S, Mesh, answers, consul, docker, inspect, until, whole_page
from patience import SLACK

from dockermesh.ca import Authority, new_material
from dockermesh.model import INBOUND_PORT, OUTBOUND_PORT, Identity

pytestmark = pytest.mark.docker

PAGE = "http://localhost:30080/productpage"
APP, POD = "bookinfo-productpage-v1-1", "bookinfo-{}-1-pod-1"
SERVERS = ("details-v1", "reviews-v1", "reviews-v2", "ratings-v1", "productpage-v1")
APP_PORT = 9080
SILENT_S = 5.0
"""Who has not answered by then is taken not to answer."""
_EVERYTHING, _IPV4, _TCP = 0x0003, b"\x08\x00", 6

# Runs in a container: the answers to GET at each URL, empty where there is none within the
# patience.
ASK = """
import json, sys, urllib.error, urllib.request
def ask(url):
    try:
        return urllib.request.urlopen(url, timeout=float(sys.argv[1])).read(200).decode().strip()
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (OSError, ValueError, Exception) as error:
        return ""
print(json.dumps([ask(url) for url in sys.argv[2:]]))
"""
PLAIN = """
import http.server
class Plain(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"from the plain one")
http.server.HTTPServer(("", 9080), Plain).serve_forever()
"""


def network_of(container: str) -> tuple[str, str]:
    """The mesh network of a pod, and the pod's address there."""
    found = inspect(container)["NetworkSettings"]["Networks"]
    name = next(n for n in sorted(found) if n.startswith("dockermesh"))
    return name, str(found[name]["IPAddress"])


def answer_from(
    address: str, port: int = APP_PORT, tls: ssl.SSLContext | None = None
) -> str:
    """What a GET over this connection is answered; empty if it is not."""
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection(address, port, timeout=10)
    else:
        connection = http.client.HTTPSConnection(address, port, timeout=10, context=tls)
    try:
        connection.request("GET", "/health")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def asked(container: str, *urls: str, patience: float = 5 * SLACK) -> list[str]:
    found: list[str] = json.loads(
        docker("exec", container, "python3", "-c", ASK, str(patience), *urls)
    )
    return found


@pytest.fixture
def strict(mesh: Mesh, tmp_path: Path) -> Iterator[None]:
    """STRICT for the whole mesh."""
    file = tmp_path / "strict.yaml"
    file.write_text(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        "metadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n"
    )
    done = mesh.command("apply", "-f", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    addresses = [network_of(POD.format(name))[1] for name in SERVERS]
    try:
        until(
            lambda: not any(map(answer_from, addresses)),
            "plaintext is refused everywhere",
            HEALS_S,
        )
        mesh.until_synced()
        yield
    finally:
        mesh.command("delete", "-f", str(file))
        until(
            lambda: all(answer_from(a) == "200" for a in addresses),
            "plaintext is taken again",
            HEALS_S,
        )


@pytest.fixture
def plain(mesh: Mesh) -> Iterator[str]:
    """A container on the mesh network without a proxy; its name."""
    network, _ = network_of(POD.format("details-v1"))
    image, name = str(inspect(APP)["Config"]["Image"]), "mtls-outsider"
    docker("rm", "-f", name, check=False)
    docker(
        "run",
        "-d",
        "--name",
        name,
        "--network",
        network,
        "--entrypoint",
        "python3",
        image,
        "-c",
        PLAIN,
    )
    until(
        lambda: asked(name, "http://localhost:9080/") == ["from the plain one"],
        "it serves",
    )
    try:
        yield name
    finally:
        docker("rm", "-f", name)


@contextlib.contextmanager
def registered(service: str, address: str, **meta: str) -> Iterator[None]:
    """A further endpoint of a service, written into Consul by hand."""
    body = {
        "ID": f"mtls-{service}",
        "Name": service,
        "Address": address,
        "Port": APP_PORT,
        "Meta": meta,
    }
    consul("/v1/agent/service/register", "PUT", body)
    try:
        yield
    finally:
        consul(f"/v1/agent/service/deregister/mtls-{service}", "PUT")


def test_strict_refuses_everybody_without_a_certificate_of_the_mesh(
    mesh: Mesh, strict: None, plain: str, tmp_path: Path
) -> None:
    addresses = [network_of(POD.format(name))[1] for name in SERVERS]
    ports = (APP_PORT, INBOUND_PORT, OUTBOUND_PORT)
    urls = [
        f"http://{address}:{port}/health" for address in addresses for port in ports
    ]
    assert not any(asked(plain, *urls, patience=SILENT_S))
    assert not any(
        answer_from(address, port) for address in addresses for port in ports
    ), "from the host"

    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    leaf = authority.issue_workload(
        Identity("cluster.local", "default", "bookinfo-productpage")
    )
    (tmp_path / "chain.pem").write_bytes(leaf.certificate)
    (tmp_path / "key.pem").write_bytes(leaf.key)
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    foreign.check_hostname, foreign.verify_mode = False, ssl.CERT_NONE
    foreign.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    foreign.set_alpn_protocols(["istio"])
    assert not any(answer_from(address, tls=foreign) for address in addresses)

    assert "PublisherA" in until(whole_page, "the page, by mutual TLS")
    assert "yes" in mesh.command("mtls", "status", "--service", "details").stdout


class Wire:
    """What is sent between pods, from or to the port of an app: every frame on the machine, as its
    kernel sees it.
    """

    def __init__(self, addresses: Collection[str]) -> None:
        self._between = frozenset(map(socket.inet_aton, addresses))
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)
        )
        self._socket.settimeout(0.2)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.payloads: list[bytes] = []

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                self._take(self._socket.recv(65536))

    def _take(self, frame: bytes) -> None:
        packet = frame[14:]
        if (
            frame[12:14] != _IPV4
            or packet[9] != _TCP
            or not {packet[12:16], packet[16:20]} <= self._between
        ):
            return
        segment = packet[(packet[0] & 15) * 4 : struct.unpack("!H", packet[2:4])[0]]
        payload = segment[(segment[12] >> 4) * 4 :]
        if payload and APP_PORT in struct.unpack("!HH", segment[:4]):
            self.payloads.append(payload)


def test_packets_between_pods_hold_no_plaintext(mesh: Mesh) -> None:
    addresses = [network_of(POD.format(name))[1] for name in SERVERS]
    with Wire(addresses) as wire:
        until(
            lambda: answers(PAGE) and len(wire.payloads) > 10,
            "packets between pods were seen",
        )
    readable = [
        p
        for p in wire.payloads
        if b"HTTP/1." in p or b"GET /" in p or b"x-request-id" in p
    ]
    assert not readable
    assert any(p[:3] == b"\x17\x03\x03" for p in wire.payloads)


BARE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: details-bare}
spec:
  host: details
  subsets:
    - {name: bare, labels: {proxy: none}, trafficPolicy: {tls: {mode: DISABLE}}}
"""


def test_replicas_with_and_without_a_proxy_serve_side_by_side_where_a_rule_says_so(
    mesh: Mesh, plain: str, tmp_path: Path
) -> None:
    _, address = network_of(plain)
    rule = tmp_path / "bare.yaml"
    rule.write_text(BARE)
    seen: set[str] = set()
    wanted = {'{"status": "Details is healthy"}', "from the plain one"}

    def ten() -> list[str]:
        return asked(APP, *["http://details:9080/health"] * 10)

    def both() -> bool:
        seen.update(ten())
        return wanted <= seen

    with registered("details", address):
        until(
            lambda: any(address in w for w in mesh.warnings()),
            "it is told who is refused",
            HEALS_S,
        )
        assert "from the plain one" not in ten(), "nobody said that it may"
        assert "which is bookinfo's" in mesh.command("doctor").stdout
        assert "DM0009" in mesh.command("analyze").stdout

        assert mesh.command("apply", "-f", str(rule)).returncode == 0
        try:
            until(both, "both replicas answer", HEALS_S)
        finally:
            mesh.command("delete", "-f", str(rule))
        until(lambda: "from the plain one" not in ten(), "it is refused", HEALS_S)
    assert seen - wanted <= {"status 503"}, (
        "a connection of before the last policy may break under a request"
    )


def test_who_registers_under_anothers_name_is_not_believed(mesh: Mesh) -> None:
    """S16: its certificate says who it is; requests go to those whom the service may have."""
    _, address = network_of(POD.format("reviews-v1"))
    wanted = '{"status": "Details is healthy"}'
    meta = {
        "dockermesh-workload": "bookinfo/reviews-v1-1",
        "dockermesh-service-account": "details",
    }
    with registered("details", address, **meta):
        until(
            lambda: address in {e["address"] for e in mesh.endpoints("details")},
            "the impostor is known",
            HEALS_S,
        )
        until(mesh.is_synced, "it was told to all", HEALS_S)
        for _ in range(5):
            # A connection of before the last policy may break under a request; never is it the
            # impostor that answers.
            [answer] = asked(APP, "http://details:9080/health")
            assert answer in {wanted, "status 503"}
        until(
            lambda: asked(APP, "http://details:9080/health") == [wanted],
            "details itself answers",
        )
