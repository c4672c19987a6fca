"""Node mode: Compose projects as they are, in the mesh of bookinfo, served by one proxy for all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from load import steady_load
from mesh_rig import Mesh, answers, docker, inspect, run
from patience import SLACK, until

pytestmark = pytest.mark.docker

NETNS = os.environ.get("DOCKERMESH_NETNS", "/var/run/docker/netns")
CAPTURED = "/etc/dockermesh/node/captured.json"
SHOP = "http://till:9080/details/0"
CALL = """
import socket, sys, urllib.error, urllib.request
socket.setdefaulttimeout(float(sys.argv[2]))
try:
    print(urllib.request.urlopen(sys.argv[1]).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print("refused" if "refused" in str(error) else "no way")
"""
TILLS = """
name: tills
services:
  till:
    image: bookinfo-details-v1
    environment: {SERVICE_PROTOCOL: http}
    expose: ["9080"]
    deploy: {replicas: 2}
  clerk: {image: bookinfo-details-v1, expose: ["9080"]}
  thief: {image: bookinfo-details-v1, expose: ["9080"]}
"""
ONLY_CLERKS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-clerks, namespace: default}
spec:
  selector: {matchLabels: {app: till}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/clerk]}}]}]
"""
WORKLOADS = {"tills/till-1", "tills/till-2", "tills/clerk-1", "tills/thief-1"}


def call(container: str, url: str = SHOP, seconds: float = 30 * SLACK) -> str:
    """What a request from an app's container comes to."""
    return docker("exec", container, "python3", "-c", CALL, url, str(seconds))


def verdicts(container: str) -> set[str]:
    """Of several requests, for both replicas are to be asked."""
    return {call(container) for _ in range(6)}


def address(container: str) -> str:
    (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


@pytest.fixture(scope="module")
def node(bookinfo: Mesh) -> Iterator[Mesh]:
    """The mesh; its host's proxy and agent are gone afterwards."""
    shared = run("findmnt", "-n", "-o", "PROPAGATION", "-T", NETNS).stdout
    if "shared" not in shared:
        # As a host with systemd has it.
        place = run("findmnt", "-n", "-o", "TARGET", "-T", NETNS).stdout.strip()
        run("mount", "--make-shared", place)
    yield bookinfo
    docker("exec", "dockermesh-node-agent", "dockermesh", "node-agent", "--release")
    assert docker("exec", "dockermesh-node-agent", "cat", CAPTURED) == "[]"
    parts = ("dockermesh-node-agent", "dockermesh-node-proxy", "dockermesh-node")
    docker("rm", "-f", "-v", *parts)


@pytest.fixture(scope="module")
def tills(node: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A project in node mode."""
    file = tmp_path_factory.mktemp("tills") / "compose.yaml"
    file.write_text(TILLS)
    node.up(file, "--mode", "node")
    try:
        yield node
    finally:
        node.down("tills")


def test_it_comes_up_as_without_the_mesh(tills: Mesh) -> None:
    made = docker(
        "ps", "-a", "--filter", "label=com.docker.compose.project=tills",
        "--format", "{{.Names}}",
    ).split()  # fmt: skip
    assert sorted(made) == [
        "tills-clerk-1",
        "tills-thief-1",
        "tills-till-1",
        "tills-till-2",
    ]
    found = {w["name"]: w for w in tills.workloads("tills")}
    assert set(found) == WORKLOADS
    assert {w["mode"] for w in found.values()} == {"node"}
    assert found["tills/clerk-1"]["address"] == address("tills-clerk-1")


def test_each_is_seen_with_its_own_identity_and_policies_hold(tills: Mesh) -> None:
    assert call("tills-thief-1") == "200"
    applied = tills.command("apply", "-f", "-", input=ONLY_CLERKS)
    assert applied.returncode == 0, applied.stderr
    try:
        # Connections of before are drained for some seconds, as at a sidecar.
        until(lambda: verdicts("tills-thief-1") == {"403"}, "it is in force", 20)
        assert verdicts("tills-clerk-1") == {"200"}
        # Past the proxy's table, too: who it is says its certificate, and not the way.
        at = f"http://{address('tills-till-1')}:9080/details/0"
        assert call("tills-thief-1", at) == "403"
    finally:
        tills.command("delete", "-f", "-", input=ONLY_CLERKS)
    until(lambda: call("tills-thief-1") == "200", "the policy is gone", 10)


def test_a_workloads_part_of_the_shared_proxy_is_shown(tills: Mesh) -> None:
    shown = tills.command("proxy-config", "listener", "tills/clerk-1", "-o", "json")
    names = {item["name"] for item in json.loads(shown.stdout)}
    assert {"virtualOutbound", "virtualInbound"} <= names
    assert not any("|" in name for name in names), "nobody else's"
    status = tills.command("proxy-status", "tills/clerk-1")
    assert "Listeners Match" in status.stdout, status.stdout + status.stderr


def test_the_shared_proxy_is_no_way_between_networks(
    tills: Mesh, tmp_path: Path
) -> None:
    """Another project's container in node mode reaches of this one what plain Docker lets it."""
    file = tmp_path / "compose.yaml"
    file.write_text(
        "name: yard\nservices:\n  dog: {image: bookinfo-details-v1, expose: ['9080']}\n"
    )
    tills.up(file, "--mode", "node")
    try:
        at = f"http://{address('tills-till-1')}:9080/details/0"
        for url in (at, SHOP):
            assert call("yard-dog-1", url, 2.0) in {"no way", "503"}
        assert call("tills-clerk-1") == "200", "who is on its network has a way"
    finally:
        tills.down("yard")


def test_labels_that_an_image_brings_make_nobody_a_workload(tills: Mesh) -> None:
    """As those of an image that Compose built, which carry its project and service."""
    labels = [
        "com.docker.compose.project=tills",
        "com.docker.compose.service=clerk",
        "com.docker.compose.container-number=7",
        "dockermesh.io/mode=node",
        "dockermesh.io/service-account=clerk",
    ]
    changes = [part for label in labels for part in ("--change", f"LABEL {label}")]
    docker("create", "--name", "blank", "bookinfo-details-v1")
    try:
        docker("commit", *changes, "blank", "pretender:test")
        docker("run", "-d", "--name", "pretender", "--network", "tills_default",
               "pretender:test")  # fmt: skip
        until(lambda: call("pretender") == "200", "it calls in plaintext", 10)
        names = {w["name"] for w in tills.workloads("tills")}
        assert names == WORKLOADS
        applied = tills.command("apply", "-f", "-", input=ONLY_CLERKS)
        assert applied.returncode == 0, applied.stderr
        until(lambda: call("pretender") == "403", "it is not taken for a clerk", 10)
        assert call("tills-clerk-1") == "200"
    finally:
        tills.command("delete", "-f", "-", input=ONLY_CLERKS)
        docker("rm", "-f", "blank", "pretender", check=False)
        docker("rmi", "pretender:test", check=False)


def test_the_shared_proxy_has_no_more_rights_than_it_needs(tills: Mesh) -> None:
    """SYS_ADMIN and NET_ADMIN, of which its system calls leave the entering of networks."""
    envoy = run("pgrep", "-P", str(inspect("dockermesh-node-proxy")["State"]["Pid"]))
    status = Path(f"/proc/{envoy.stdout.split()[0]}/status").read_text()
    found = dict(line.split(":\t", 1) for line in status.splitlines())
    assert found["Uid"].split() == ["1337"] * 4
    rights = f"{1 << 21 | 1 << 12:016x}"
    assert {found[f"Cap{kind}"] for kind in ("Eff", "Prm", "Bnd")} == {rights}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    refused = run(
        "docker", "exec", "dockermesh-node-proxy", "unshare", "--mount", "true", check=False
    )  # fmt: skip
    assert "Operation not permitted" in refused.stderr


def test_a_running_project_is_taken_in_and_let_go_without_a_lost_request(
    node: Mesh, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "name: stall\nservices:\n"
        "  stand: {image: bookinfo-details-v1, ports: ['9092:9080']}\n"
        "  buyer: {image: bookinfo-details-v1, expose: ['9080']}\n"
    )
    compose = ("docker", "compose", "-f", str(file))
    run(*compose, "up", "-d")
    url = "http://127.0.0.1:9092/details/0"
    try:
        until(lambda: answers(url), "the app answers", 20)
        started = inspect("stall-stand-1")["State"]["StartedAt"]
        with steady_load(url) as seen:
            taken = node.command("attach", "stall", "--timeout", str(60 * SLACK))
            assert taken.returncode == 0, taken.stdout + taken.stderr
            assert {w["name"] for w in node.workloads("stall")} == {
                "stall/stand-1",
                "stall/buyer-1",
            }
            assert (
                call("stall-buyer-1", "http://stand.service.consul:9080/details/0")
                == "200"
            )

            left = node.command("detach", "stall", "--timeout", str(30 * SLACK))
            assert left.returncode == 0, left.stdout + left.stderr
            until(lambda: not node.workloads("stall"), "it is no workload any more", 20)
        assert set(seen) == {200}, seen
        assert inspect("stall-stand-1")["State"]["StartedAt"] == started
    finally:
        run(*compose, "down", "-t", "1")


def test_sidecars_and_workloads_in_node_mode_call_each_other(
    node: Mesh, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "name: both\nservices:\n"
        "  lefty: {image: bookinfo-details-v1, expose: ['9080']}\n"
        "  right:\n    image: bookinfo-details-v1\n    expose: ['9080']\n"
        "    labels: {dockermesh.io/mode: node}\n"
    )
    node.up(file)
    try:
        until(lambda: len(node.workloads("both")) == 2, "both are workloads", 20)
        until(
            lambda: call("both-lefty-1", "http://right:9080/details/0") == "200",
            "the sidecar's app calls the other",
            20,
        )
        until(
            lambda: call("both-right-1", "http://lefty:9080/details/0") == "200",
            "the other calls the sidecar's app",
            20,
        )
    finally:
        node.down("both")
