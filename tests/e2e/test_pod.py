"""A pod and its stock Envoy in real containers, with a small control plane on the host's end of the
network.

What the pod promises the rest of the mesh: no privileges left, one healthy moment, and waiting
instead of refusing.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.service.discovery.v3 import discovery_pb2
from patience import SLACK, until

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
BASE_IMAGE = os.environ.get("BASE_IMAGE", "dockermesh-base:bookworm")
PROXY_IMAGE = os.environ.get("DOCKERMESH_PROXY_IMAGE", "dockermesh/proxy:1.40.0")
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, (
        f"docker {' '.join(arguments)}: {done.stderr}"
    )
    return done.stdout.strip()


def certificate(directory: Path) -> tuple[bytes, bytes]:
    """A self-signed certificate of the control plane, which is its own root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "control-plane.dockermesh")]
    )
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("control-plane.dockermesh")]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    (directory / "root.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, pem


@dataclass
class ControlPlane(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every subscription with nothing, once `open`; remembers who called."""

    open: threading.Event = field(default_factory=threading.Event)
    callers: list[tuple[str, str]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return (
            grpc.stream_stream_rpc_method_handler(self.stream)
            if details.method == ADS
            else None
        )

    def stream(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        token = dict(context.invocation_metadata())["authorization"]
        for raw in requests:
            request = discovery_pb2.DeltaDiscoveryRequest.FromString(raw)
            if request.node.id:
                self.callers.append((request.node.id, token))
            if not request.response_nonce:
                self.open.wait(60 * SLACK)
                answer = discovery_pb2.DeltaDiscoveryResponse(
                    type_url=request.type_url, nonce="1"
                )
                yield answer.SerializeToString()


@dataclass
class Bench:
    """One pod with its proxy, on a network of its own."""

    name: str
    trust: Path
    control_plane: ControlPlane
    port: int
    gateway: str
    image: str

    @property
    def pod(self) -> str:
        return f"{self.name}-pod"

    @property
    def proxy(self) -> str:
        return f"{self.name}-proxy"

    def start_pod(self) -> None:
        capabilities = [
            f"--cap-add={name}"
            for name in ("NET_ADMIN", "SETUID", "SETGID", "SETPCAP", "CHOWN")
        ]
        docker(
            *(
                "run",
                "-d",
                "--name",
                self.pod,
                "--network",
                self.name,
                "--read-only",
                "--cap-drop=ALL",
            ),
            *(*capabilities, "--security-opt=no-new-privileges:true"),
            *(
                "-e",
                "DOCKERMESH_WORKLOAD=shop/reviews-1",
                f"--add-host=control-plane.dockermesh:{self.gateway}",
            ),
            *("-e", f"DOCKERMESH_CONTROL_PLANE=control-plane.dockermesh:{self.port}"),
            *(
                "-v",
                f"{self.trust}:/etc/dockermesh/trust:ro",
                "-v",
                f"{self.name}-run:/run/dockermesh",
            ),
            *(
                "--health-cmd=/usr/local/bin/pod-health",
                "--health-interval=200ms",
                "--health-timeout=600s",
            ),
            *("--health-retries=1", self.image),
        )

    def start_proxy(self) -> None:
        docker(
            *(
                "run",
                "-d",
                "--name",
                self.proxy,
                "--network",
                f"container:{self.pod}",
                "--read-only",
                "--cap-drop=ALL",
            ),
            *(
                "--user=1337:1337",
                "--restart=always",
                "-v",
                f"{self.trust}:/etc/dockermesh/trust:ro",
            ),
            *("-v", f"{self.name}-run:/run/dockermesh", PROXY_IMAGE),
            *(
                "envoy",
                "-c",
                "/run/dockermesh/envoy.json",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ),
        )

    def health(self) -> str:
        return docker("inspect", "-f", "{{.State.Health.Status}}", self.pod)

    def is_ready(self) -> bool:
        """What the pod's own probe asks, a little slower than it does."""
        request = (
            r"GET /healthz/ready HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"
        )
        script = (
            f"exec 3<>/dev/tcp/127.0.0.1/15021 && printf '{request}' >&3 && head -1 <&3"
        )
        return " 200 " in docker("exec", self.pod, "bash", "-c", script, check=False)

    def attested(self) -> list[str]:
        lines = [
            line
            for line in docker("logs", self.pod).splitlines()
            if '"dockermesh":"attest"' in line
        ]
        return [json.loads(line)["token_sha256"] for line in lines]

    def app(self, script: str, *, network: str = "", image: str = "") -> str:
        network = network or f"container:{self.pod}"
        return docker(
            "run",
            "--rm",
            "--network",
            network,
            "--entrypoint",
            "bash",
            image or self.image,
            "-c",
            script,
        )


@pytest.fixture(scope="module")
def image() -> str:
    tag = "dockermesh/pod:test"
    docker(
        "build",
        "-q",
        "-t",
        tag,
        "--build-arg",
        f"BASE_IMAGE={BASE_IMAGE}",
        str(ROOT / "compose/images/pod"),
    )
    return tag


@pytest.fixture
def bench(image: str, tmp_path: Path) -> Iterator[Bench]:
    name = f"podtest-{secrets.token_hex(3)}"
    trust = tmp_path / "trust"
    trust.mkdir()
    key, chain = certificate(trust)
    docker("network", "create", name)
    docker("volume", "create", "--opt=type=tmpfs", "--opt=device=tmpfs", f"{name}-run")
    config = json.loads(
        docker("network", "inspect", "-f", "{{json .IPAM.Config}}", name)
    )[0]
    gateway = config.get("Gateway") or str(next(ip_network(config["Subnet"]).hosts()))
    control_plane = ControlPlane()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((control_plane,))
    port = server.add_secure_port(
        f"{gateway}:0", grpc.ssl_server_credentials([(key, chain)])
    )
    server.start()
    try:
        yield Bench(name, trust, control_plane, port, gateway, image)
    finally:
        control_plane.open.set()
        docker("rm", "-f", f"{name}-proxy", f"{name}-pod", check=False)
        docker("volume", "rm", f"{name}-run", check=False)
        docker("network", "rm", name, check=False)
        server.stop(0)


def test_a_pod_from_its_start_to_its_proxys_death(bench: Bench) -> None:
    bench.start_pod()
    bench.start_proxy()
    until(lambda: bench.control_plane.callers, "the proxy's stream")
    assert bench.health() == "starting", (
        "an Envoy without its first configuration is not ready"
    )
    bench.control_plane.open.set()
    until(lambda: bench.health() == "healthy", "healthy", 2)

    node, header = bench.control_plane.callers[0]
    address = docker(
        "inspect",
        "-f",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        bench.pod,
    )
    assert node == f"sidecar~{address}~shop/reviews-1.default~default.svc.cluster.local"
    assert (
        sha256(header.removeprefix("Bearer ").encode()).hexdigest()
        == bench.attested()[0]
    )

    for container in (bench.pod, bench.proxy):
        pid = docker("inspect", "-f", "{{.State.Pid}}", container)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert int(status["CapEff"], 16) == 0
        assert status["Uid"].split()[0] == "1337"

    # From another container nothing answers who has no certificate, and of the admin port nothing
    # is seen.
    other = bench.app(
        "for port in 15000 15090; do timeout 3 bash -c"
        f" 'exec 3<>/dev/tcp/{address}/'$port' && printf x >&3 && head -1 <&3'"
        " || echo closed; done",
        network=bench.name,
    )
    assert other.splitlines() == ["closed", "closed"]

    # The proxy's own queries reach Docker's resolver, past our redirection and through its
    # conntrack zone.
    own = [
        "--user=1337:1337",
        f"--network=container:{bench.pod}",
        "--entrypoint=getent",
        bench.image,
    ]
    for _ in range(2):
        assert docker("run", "--rm", *own, "ahostsv4", bench.pod).split()[0] == address

    # A killed proxy is restarted, and the pod does not turn unhealthy over it.
    streams, killed = len(bench.control_plane.callers), time.monotonic()
    os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", bench.proxy)), signal.SIGKILL)
    until(lambda: len(bench.control_plane.callers) > streams, "the new proxy's stream")
    health = bench.health()
    if (
        time.monotonic() - killed < 4
    ):  # a slower machine is beyond what the pod puts up with
        assert health == "healthy"
    until(lambda: bench.health() == "healthy", "healthy with the new proxy", 15)
    # The pod's probe counts from when it last saw the proxy ready, so it has to have seen the new
    # one.
    until(lambda: all(bench.is_ready() for _ in range(5)), "the new proxy is ready")

    began = time.monotonic()
    docker("rm", "-f", bench.proxy)
    until(lambda: bench.health() == "unhealthy", "unhealthy without a proxy", 15)
    assert time.monotonic() - began > 4, "a restart of the proxy has to fit in"


def test_a_restarted_pod_makes_a_new_token(bench: Bench) -> None:
    bench.start_pod()
    until(lambda: len(bench.attested()) == 1, "attested")
    docker("restart", "-t", "5", bench.pod)
    until(lambda: len(set(bench.attested())) == 2, "attested anew")
