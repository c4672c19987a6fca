"""The pod script and its rules in real network namespaces, with real connections: what is
redirected, and what waits.

Needs root, iproute2 and iptables; where they are missing the tests say so, and in CI that is a
failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from envoy_binary import envoy_binary
from patience import SLACK, until

IMAGE = Path(__file__).parents[2] / "compose/images/pod"
DOCKER_RULES = """*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:45678
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:45678
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 45678 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 45678 -j SNAT --to-source :53
COMMIT
"""


# As Docker writes it into a pod that is on the app's network and on the mesh's.
OWN_HOST = f"172.18.0.3\t{socket.gethostname()}\n"
MESH_HOSTS = f"10.99.0.1\t{socket.gethostname()}\nfd00:99::1\t{socket.gethostname()}\n"
HOSTS = f"127.0.0.1\tlocalhost\n{OWN_HOST}{MESH_HOSTS}10.99.0.9\textra\n"


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    return ", ".join(
        tool
        for tool in ("ip", "iptables-nft-restore", "setpriv")
        if not shutil.which(tool)
    )


@pytest.fixture(autouse=True, scope="module")
def machine() -> None:
    if missing := _missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"network namespaces: {missing}"
        )


@dataclass(frozen=True)
class Net:
    """A pod's namespace and another host's, with a wire between them: 10.99.0.1 and 10.99.0.2."""

    pod: str
    peer: str

    def run(self, *command: str, feed: str = "", where: str = "") -> str:
        return subprocess.run(
            ["ip", "netns", "exec", where or self.pod, *command],
            input=feed,
            text=True,
            check=True,
            capture_output=True,
        ).stdout

    def python(
        self, code: str, *, uid: int = 0, where: str = ""
    ) -> subprocess.Popen[str]:
        drop = (
            ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            if uid
            else []
        )
        command = [
            "ip",
            "netns",
            "exec",
            where or self.pod,
            *drop,
            sys.executable,
            "-S",
            "-E",
            "-c",
            code,
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def saved(self) -> str:
        """The IPv4 and IPv6 rules, without counters and comments."""
        text = self.run("iptables-nft-save") + self.run("ip6tables-nft-save")
        return "\n".join(
            re.sub(r"\[\d+:\d+\]", "", line)
            for line in text.splitlines()
            if not line.startswith("#")
        )


@pytest.fixture
def net() -> Iterator[Net]:
    tag = secrets.token_hex(3)
    net = Net(f"pod-{tag}", f"peer-{tag}")
    try:
        for name in (net.pod, net.peer):
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                "eth0",
                "netns",
                net.pod,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                net.peer,
            ],
            check=True,
        )
        for place, name in enumerate((net.pod, net.peer), start=1):
            for command in (
                "link set lo up",
                f"addr add 10.99.0.{place}/24 dev eth0",
                "link set eth0 up",
            ):
                subprocess.run(["ip", "-n", name, *command.split()], check=True)
        subprocess.run(
            ["ip", "-n", net.pod, "route", "add", "default", "via", "10.99.0.2"],
            check=True,
        )
        net.run("iptables-nft-restore", "--noflush", feed=DOCKER_RULES)
        yield net
    finally:
        for name in (net.pod, net.peer):
            subprocess.run(
                ["ip", "netns", "del", name], check=False, capture_output=True
            )


class Pod:
    """The pod script as it runs in its container, with directories of its own."""

    def __init__(self, net: Net, root: Path, **environment: str) -> None:
        self.etc, self.run_dir = root / "etc", root / "run"
        self.net = net
        (self.etc / "trust").mkdir(parents=True)
        self.run_dir.mkdir()
        root.chmod(0o755)
        for name in ("capture.rules", "bootstrap.json", "trust.json"):
            shutil.copy(IMAGE / name, self.etc / name)
        shutil.copy(IMAGE / "pod", root / "pod")
        shutil.copy(IMAGE / "health", root / "health")
        shutil.copy(IMAGE / "dns", root / "dns")
        self.hosts = root / "hosts"
        self.hosts.write_text(HOSTS)
        self.script, self.health_script = root / "pod", root / "health"
        self.environment = {
            "PATH": os.environ["PATH"],
            "DOCKERMESH_ETC": str(self.etc),
            "DOCKERMESH_RUN": str(self.run_dir),
            "DOCKERMESH_WORKLOAD": "shop/reviews-1",
            "DOCKERMESH_CONTROL_PLANE": "10.99.0.2:15012",
            "DOCKERMESH_DNS": str(root / "dns"),
            "DOCKERMESH_HOSTS": str(self.hosts),
            **environment,
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, trusted: bool = True) -> dict[str, str]:
        if trusted:
            (self.etc / "trust/root.pem").write_text("a certificate")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.net.pod, "bash", str(self.script)],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        attest: dict[str, str] = json.loads(self.process.stdout.readline())
        return attest

    def bootstrap(self) -> Path:
        file = self.run_dir / "envoy.json"
        until(file.exists, "envoy.json")
        return file

    def stop(self) -> float:
        assert self.process
        began = time.monotonic()
        self.process.terminate()
        assert self.process.wait(5 * SLACK) == 0
        return time.monotonic() - began


@pytest.fixture
def make_pod(net: Net) -> Iterator[Callable[..., Pod]]:
    pods: list[Pod] = []
    # Not pytest's own: nobody but its user may look into that one, and a pod ends up as somebody
    # else.
    folder = Path(tempfile.mkdtemp(prefix="dockermesh-pods-"))
    folder.chmod(0o755)

    def make(**environment: str) -> Pod:
        pods.append(Pod(net, folder / f"pod{len(pods)}", **environment))
        return pods[-1]

    yield make
    for pod in pods:
        if pod.process and pod.process.poll() is None:
            # In its container all others end with the first process.
            os.killpg(pod.process.pid, signal.SIGKILL)
            pod.process.wait()
    shutil.rmtree(folder)


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod()


CONNECT = """
import socket, time
began = time.monotonic()
s = socket.socket(); s.settimeout({timeout})
try:
    s.connect(({host!r}, {port})); print("connected", s.recv(9).decode(), flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"""
SERVE = """
import socket
l = socket.socket(); l.setsockopt(1, 2, 1); l.bind(({host!r}, {port})); l.listen(); print("up", flush=True)
while True:
    c, _ = l.accept(); c.send({say!r}); c.close()
"""


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        assert process.stdout and process.stdout.readline() == "up\n"
        yield
    finally:
        process.kill()
        process.wait()


def serving(
    net: Net, host: str, port: int, say: bytes, *, uid: int = 0, where: str = ""
) -> contextlib.AbstractContextManager[None]:
    return running(
        net.python(SERVE.format(host=host, port=port, say=say), uid=uid, where=where)
    )


def connect(
    net: Net,
    host: str,
    port: int,
    *,
    uid: int = 0,
    where: str = "",
    timeout: float = 5 * SLACK,
) -> str:
    process = net.python(
        CONNECT.format(host=host, port=port, timeout=timeout), uid=uid, where=where
    )
    return process.communicate()[0].strip()


def test_the_pod_writes_a_private_bootstrap_and_attests_its_token(pod: Pod) -> None:
    attest = pod.start()
    file = pod.bootstrap()
    assert file.stat().st_mode & 0o777 == 0o400
    assert file.stat().st_uid == 1337
    bootstrap = json.loads(file.read_text())
    header = bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0][
        "initial_metadata"
    ][0]
    scheme, token = header["value"].split()
    assert (header["key"], scheme, len(token)) == ("authorization", "Bearer", 64)
    assert attest == {
        "dockermesh": "attest",
        "workload": "shop/reviews-1",
        "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
    }
    assert (
        bootstrap["node"]["id"]
        == "sidecar~10.99.0.1~shop/reviews-1.default~default.svc.cluster.local"
    )
    assert bootstrap["node"]["cluster"] == "reviews"
    assert "@" not in file.read_text().replace("@type", "")


@pytest.mark.parametrize(("kind", "most"), [("sidecar", 10**9), ("router", 500)])
def test_clients_that_give_up_are_an_attack_at_the_edge_alone(
    pod: Pod, kind: str, most: int
) -> None:
    pod.environment["DOCKERMESH_KIND"] = kind
    pod.start()
    bootstrap = json.loads(pod.bootstrap().read_text())
    (layer,) = bootstrap["layered_runtime"]["layers"]
    name = "overload.premature_reset_total_stream_count"
    assert layer["static_layer"][name] == most


def test_the_sleeping_pod_has_no_privileges_and_uses_no_processor(pod: Pod) -> None:
    pod.start()
    pod.bootstrap()
    assert pod.process
    process = Path(f"/proc/{pod.process.pid}")

    def switches() -> list[str]:
        return re.findall(r"ctxt_switches:\s+(\d+)", (process / "status").read_text())

    def is_at_rest() -> bool:
        before = switches()
        time.sleep(0.2)
        children = (process / f"task/{process.name}/children").read_text().split()
        return (
            [Path(f"/proc/{child}/comm").read_text() for child in children]
            == ["perl\n"]
            and "S (sleeping)" in (process / "status").read_text()
            and switches() == before
        )

    until(is_at_rest, "asleep, with the name server alone")
    status = (process / "status").read_text()
    assert re.search(r"^Uid:\s+1337\s+1337", status, re.M)
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{capabilities}:\s+0{{16}}$", status, re.M), capabilities
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    [child] = (process / f"task/{process.name}/children").read_text().split()
    served = Path(f"/proc/{child}/status").read_text()
    assert re.search(r"^Uid:\s+1337\s+1337", served, re.M)
    assert re.search(r"^CapEff:\s+0{16}$", served, re.M)
    before = switches()
    with pytest.raises(subprocess.TimeoutExpired):
        pod.process.wait(0.5)
    assert switches() == before


def test_a_restart_makes_a_new_token_and_the_same_rules(pod: Pod, net: Net) -> None:
    first = pod.start()
    pod.bootstrap()
    rules = net.saved()
    assert pod.stop() < 1 * SLACK
    second = pod.start()
    pod.bootstrap()
    assert second["token_sha256"] != first["token_sha256"]
    assert net.saved() == rules


def test_dockers_rules_stay_and_come_after_ours(pod: Pod, net: Net) -> None:
    before = [line for line in net.saved().splitlines() if "DOCKER" in line]
    pod.start()
    rules = net.saved().splitlines()
    assert [line for line in rules if "DOCKER" in line] == before
    output = [line for line in rules if line.startswith("-A OUTPUT")]
    assert output.index("-A OUTPUT -j ISTIO_OUTPUT") < output.index(
        "-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT"
    )


@pytest.mark.binary
def test_envoy_accepts_the_bootstrap(pod: Pod) -> None:
    pod.start()
    command = [
        envoy_binary(),
        "--mode",
        "validate",
        "-l",
        "warning",
        "-c",
        str(pod.bootstrap()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Envoy 1.40 may crash after it has said so, where scopes of metrics are shared by name.
    assert f"configuration '{pod.bootstrap()}' OK" in done.stdout, done.stderr
    assert "Deprecated" not in done.stderr


def test_rules_are_put_where_dockers_are(pod: Pod, net: Net) -> None:
    net.run("iptables-nft-restore", feed="*nat\nCOMMIT\n")
    net.run("iptables-legacy-restore", feed=DOCKER_RULES)
    pod.start()
    output = [
        line
        for line in net.run("iptables-legacy-save", "-t", "nat").splitlines()
        if line.startswith("-A OUTPUT")
    ]
    assert output == [
        "-A OUTPUT -j ISTIO_OUTPUT",
        "-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT",
    ]
    assert "ISTIO" not in net.run("iptables-nft-save")
    pod.bootstrap()
    pod.stop()
    before = rules_of(net)
    pod.start()
    assert rules_of(net) == before


def rules_of(net: Net) -> list[str]:
    """The rules, without the time and how many packets each has seen."""
    saved = net.run("iptables-legacy-save", "-t", "nat").splitlines()[1:-1]
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in saved]


def test_mixed_flavours_are_refused(pod: Pod, net: Net) -> None:
    net.run("iptables-legacy-restore", feed=DOCKER_RULES)
    command = ["ip", "netns", "exec", net.pod, "bash", str(pod.script)]
    done = subprocess.run(
        command,
        env=pod.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * SLACK,
    )
    assert done.returncode == 1
    assert "update-alternatives" in done.stderr


def test_other_rules_replace_the_old_ones(pod: Pod, net: Net) -> None:
    pod.start()
    pod.bootstrap()
    pod.stop()
    pod.environment["DOCKERMESH_CAPTURE"] = "none"
    pod.start()
    rules = net.saved()
    assert "-A PREROUTING" not in rules
    assert {line for line in rules.splitlines() if line.startswith("-A OUTPUT")} == {
        "-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT",
        "-A OUTPUT ! -o lo -p tcp -m tcp --tcp-flags RST,ACK RST,ACK -j ISTIO_HOLD",
    }


def test_the_bootstrap_waits_for_the_root_certificate(pod: Pod, net: Net) -> None:
    pod.start(trusted=False)
    until(lambda: "ISTIO_OUTPUT" in net.saved(), "rules before anything else")
    assert not (pod.run_dir / "envoy.json").exists()
    (pod.etc / "trust/root.pem").write_text("a certificate")
    pod.bootstrap()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOCKERMESH_WORKLOAD", ""),
        ("DOCKERMESH_WORKLOAD", 'x","y":"z'),
        ("DOCKERMESH_NAMESPACE", "a b"),
        ("DOCKERMESH_KIND", "pod"),
        ("DOCKERMESH_HOLD_PORTS", "80 -j ACCEPT"),
    ],
)
def test_bad_settings_are_refused_by_name(
    make_pod: Callable[..., Pod], name: str, value: str
) -> None:
    pod = make_pod(**{name: value})
    result = subprocess.run(
        ["ip", "netns", "exec", pod.net.pod, "bash", str(pod.script)],
        env=pod.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * SLACK,
    )
    assert result.returncode == 1
    assert name in result.stderr


def test_outbound_and_inbound_go_through_the_proxy(pod: Pod, net: Net) -> None:
    pod.start()
    with (
        serving(net, "0.0.0.0", 15001, b"outbound", uid=1337),
        serving(net, "0.0.0.0", 15006, b"inbound", uid=1337),
    ):
        assert connect(net, "1.2.3.4", 80) == "connected outbound"
        assert connect(net, "10.99.0.1", 9080, where=net.peer) == "connected inbound"
        assert connect(net, "10.99.0.1", 9080, uid=1337) == "connected inbound"
        with serving(net, "0.0.0.0", 9080, b"app"):
            assert connect(net, "127.0.0.1", 9080) == "connected app"
            assert connect(net, "10.99.0.1", 9080) == "connected app"
            assert (
                connect(net, "10.99.0.1", 9080, where=net.peer) == "connected inbound"
            )
        with serving(net, "10.99.0.2", 7000, b"far", where=net.peer):
            assert connect(net, "10.99.0.2", 7000) == "connected outbound"
            assert connect(net, "10.99.0.2", 7000, uid=1337) == "connected far"


def held(net: Net) -> int:
    """How many refusals the pod has kept to itself."""
    return int(
        re.findall(r"\[(\d+):\d+\] -A ISTIO_HOLD", net.run("iptables-nft-save", "-c"))[
            0
        ]
    )


def test_new_connections_wait_for_the_proxy(pod: Pod, net: Net) -> None:
    pod.start()
    out = net.python(CONNECT.format(host="1.2.3.4", port=80, timeout=8 * SLACK))
    inward = net.python(
        CONNECT.format(host="10.99.0.1", port=9080, timeout=8 * SLACK), where=net.peer
    )
    until(lambda: held(net) >= 2, "both connections were held once")
    with (
        serving(net, "0.0.0.0", 15001, b"outbound", uid=1337),
        serving(net, "0.0.0.0", 15006, b"inbound", uid=1337),
    ):
        assert out.communicate(timeout=8 * SLACK)[0].strip() == "connected outbound"
        assert inward.communicate(timeout=8 * SLACK)[0].strip() == "connected inbound"


def test_an_apps_own_ports_are_refused_at_once(pod: Pod, net: Net) -> None:
    pod.start()
    began = time.monotonic()
    assert connect(net, "127.0.0.1", 9999) == "ConnectionRefusedError"
    assert connect(net, "10.99.0.1", 9999) == "ConnectionRefusedError"
    assert time.monotonic() - began < 2 * SLACK


def test_resets_of_established_connections_pass(pod: Pod, net: Net) -> None:
    pod.start()
    code = f"""
import socket, struct
l = socket.socket(); l.setsockopt(1, 2, 1); l.bind(("127.0.0.1", 15001)); l.listen()
s = socket.socket(); s.settimeout(30); s.connect(("1.2.3.4", 80)); c, _ = l.accept()
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, {struct.pack("ii", 1, 0)!r}); c.close()
try: s.recv(1)
except OSError as error: print(type(error).__name__)
"""
    assert net.python(code).communicate()[0].strip() == "ConnectionResetError"


ECHO_UDP = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(({host!r}, {port})); print("up", flush=True)
while True:
    _, a = s.recvfrom(99); s.sendto({say!r}, a)
"""
ASK_UDP = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 41000))
s.connect(("127.0.0.11", 53)); s.settimeout(30)
answers = []
for name, kind in {questions!r}:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    extended = bytes([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0])
    s.send(b"id" + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]) + labels + bytes([0, 0, kind, 0, 1]) + extended)
    answers.append(s.recv(99).decode())
print(*answers)
"""
A, AAAA, SRV, HTTPS = 1, 28, 33, 65


@pytest.fixture
def deaf_pod(make_pod: Callable[..., Pod]) -> Pod:
    """One without a name server, for what stands for it."""
    return make_pod(DOCKERMESH_DNS="-esleep")


def test_dns_goes_to_the_name_server_and_its_own_to_docker(
    deaf_pod: Pod, net: Net
) -> None:
    deaf_pod.start()
    with (
        running(
            net.python(
                ECHO_UDP.format(host="127.0.0.1", port=15053, say=b"ours"), uid=1337
            )
        ),
        running(
            net.python(ECHO_UDP.format(host="127.0.0.11", port=45678, say=b"docker"))
        ),
    ):
        # The same source port on purpose: one's conntrack entry must not catch the other.
        asked = ASK_UDP.format(questions=[("api", A)])
        for _ in range(2):
            assert net.python(asked).communicate()[0].strip() == "ours"
            assert net.python(asked, uid=1337).communicate()[0].strip() == "docker"
        # One socket asks for both kinds of addresses, as musl and glibc do.
        kinds = [("api", kind) for kind in (A, AAAA, SRV, HTTPS)]
        found = net.python(ASK_UDP.format(questions=kinds)).communicate()[0].split()
        assert found == ["ours"] * len(kinds)
    with (
        serving(net, "127.0.0.1", 15053, b"ours", uid=1337),
        serving(net, "127.0.0.11", 45678, b"docker"),
    ):
        assert connect(net, "127.0.0.11", 53) == "connected ours"
        assert connect(net, "127.0.0.11", 53, uid=1337) == "connected docker"


def test_a_name_server_that_ended_is_started_again(pod: Pod, net: Net) -> None:
    pod.start()
    pod.bootstrap()
    assert pod.process
    children = Path(f"/proc/{pod.process.pid}/task/{pod.process.pid}/children")
    # Before it, the pod has other children for a moment.
    until(lambda: "15053" in net.run("ss", "-lunH", "sport = :15053"), "it listens")
    first = children.read_text().strip()
    os.kill(int(first), signal.SIGKILL)
    until(
        lambda: (
            "15053" in net.run("ss", "-lunH", "sport = :15053")
            and children.read_text().strip() != first
        ),
        "another one listens",
    )
    pod.stop()
    until(lambda: not net.run("ss", "-lunH", "sport = :15053"), "it ends with the pod")


def test_the_hosts_file_keeps_the_apps_own_networks_alone(pod: Pod, net: Net) -> None:
    subprocess.run(
        ["ip", "-n", net.pod, "addr", "add", "fd00:99::1/64", "dev", "eth0"], check=True
    )
    inode = pod.hosts.stat().st_ino
    pod.start()
    pod.bootstrap()
    until(lambda: MESH_HOSTS not in pod.hosts.read_text(), "the mesh's are gone")
    assert pod.hosts.read_text() == HOSTS.replace(MESH_HOSTS, "")
    assert pod.hosts.stat().st_ino == inode, "it is a mount, and the app's, too"


@pytest.mark.parametrize("kind", ["alone on the mesh's network", "read-only"])
def test_a_hosts_file_that_has_to_stay_as_it_is_stays(
    pod: Pod, net: Net, kind: str
) -> None:
    subprocess.run(
        ["ip", "-n", net.pod, "addr", "add", "fd00:99::1/64", "dev", "eth0"], check=True
    )
    text = HOSTS.replace(OWN_HOST, "") if kind.startswith("alone") else HOSTS
    pod.hosts.write_text(text)
    if kind == "read-only":
        subprocess.run(["mount", "--bind", pod.hosts, pod.hosts], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", pod.hosts], check=True)
    try:
        pod.start()
        pod.bootstrap()
        until(lambda: "15053" in net.run("ss", "-lunH", "sport = :15053"), "it serves")
        assert pod.hosts.read_text() == text
    finally:
        if kind == "read-only":
            subprocess.run(["umount", "-l", pod.hosts], check=True)


def test_a_gateways_connections_wait_too(
    make_pod: Callable[..., Pod], net: Net
) -> None:
    pod = make_pod(
        DOCKERMESH_CAPTURE="none",
        DOCKERMESH_KIND="router",
        DOCKERMESH_HOLD_PORTS="8080",
    )
    pod.start()
    client = net.python(
        CONNECT.format(host="10.99.0.1", port=8080, timeout=8 * SLACK), where=net.peer
    )
    until(lambda: held(net), "held")
    with serving(net, "0.0.0.0", 8080, b"gateway", uid=1337):
        assert client.communicate(timeout=8 * SLACK)[0].strip() == "connected gateway"
    assert connect(net, "10.99.0.1", 8081, where=net.peer) == "ConnectionRefusedError"


READY = """
import http.server
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200 if self.path == "/healthz/ready" else 404); self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 15021), Ready); print("up", flush=True); server.serve_forever()
"""


def test_the_probe_returns_when_the_proxy_is_ready_then_sleeps_until_it_is_lost(
    pod: Pod, net: Net
) -> None:
    pod.start()
    pod.bootstrap()
    probe = ["ip", "netns", "exec", net.pod, "bash", str(pod.health_script)]
    # What a run before left behind, looked at before the pod has tidied up: this run was never
    # ready.
    mark = pod.run_dir / "ready"
    mark.write_text("1\n")
    os.chown(mark, 1337, 1337)
    first = subprocess.Popen(probe, env=pod.environment)
    with running(net.python(READY, uid=1337)):
        assert first.wait(5 * SLACK) == 0
        second = subprocess.Popen(probe, env=pod.environment)
        status = Path(f"/proc/{second.pid}/status")
        until(
            lambda: re.search(r"^CapEff:\s+0{16}$", status.read_text(), re.M),
            "without capabilities",
            5,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1)
    assert second.wait(12 * SLACK) == 1
    third = subprocess.Popen(probe, env=pod.environment)
    with running(net.python(READY, uid=1337)):
        assert third.wait(5 * SLACK) == 0


def test_a_pod_whose_apps_cannot_resolve_names_is_not_ready(
    deaf_pod: Pod, net: Net
) -> None:
    deaf_pod.start()
    deaf_pod.bootstrap()
    probe = ["ip", "netns", "exec", net.pod, "bash", str(deaf_pod.health_script)]
    with running(net.python(READY, uid=1337)):
        waiting = subprocess.Popen(probe, env=deaf_pod.environment)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        with serving(net, "127.0.0.1", 15053, b"", uid=1337):
            assert waiting.wait(5 * SLACK) == 0


def test_stopping_waits_for_a_draining_proxy_only(pod: Pod, net: Net) -> None:
    pod.start()
    pod.bootstrap()
    with serving(net, "0.0.0.0", 15090, b"", uid=1337):
        assert 0.9 < pod.stop() < 3 * SLACK
