"""Trust as an operator handles it while requests flow: another root, a token revoked, a process
outside Docker.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from load import Load
from mesh_rig import EVERYBODY, HEALS_S, Mesh, answers, docker, inspect, run, until
from patience import SLACK

pytestmark = pytest.mark.docker

PAGE = "http://localhost:30080/productpage"
APP, REVOKED = "bookinfo-productpage-v1-1", "bookinfo/ratings-v1-1"
POD, PROXY = "bookinfo-ratings-v1-1-pod-1", "bookinfo-ratings-v1-1-proxy-1"
OUTSIDER = "trust-outsider"

# The process outside: it says as whom its proxy knows the caller.
OUTSIDE = """
import http.server
class Outside(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(self.headers.get("x-forwarded-client-cert", "a stranger").encode())
http.server.ThreadingHTTPServer(("", 8080), Outside).serve_forever()
"""
ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=50).read().decode())"


def told(mesh: Mesh, *arguments: str) -> str:
    """What a command that has to succeed prints."""
    done = mesh.command(*arguments)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def authority(mesh: Mesh) -> dict[str, Any]:
    return dict(json.loads(told(mesh, "ca", "status", "-o", "json")))


def states(mesh: Mesh, workload: str) -> dict[str, str]:
    """The states of a workload's tokens by id."""
    listed = json.loads(told(mesh, "token", "list", "-o", "json"))
    return {
        item["id"]: item["state"] for item in listed if item["workload"] == workload
    }


def xds(mesh: Mesh, workload: str) -> str:
    return next(
        (
            str(w["xds"])
            for w in mesh.workloads(workload.partition("/")[0])
            if w["name"] == workload
        ),
        "",
    )


def test_the_root_is_replaced_without_a_failed_request(mesh: Mesh) -> None:
    [old] = [root["sha256"] for root in authority(mesh)["roots"]]
    with Load() as load:
        load.warmed()
        for step, phase, trusted in (
            ("prepare", "prepared", 2),
            ("switch", "switched", 2),
            ("finish", "stable", 1),
        ):
            told(mesh, "ca", "rotate", "--step", step, "--timeout", str(60 * SLACK))
            report = authority(mesh)
            assert (report["phase"], len(report["roots"])) == (phase, trusted)
        load.settle()
    load.assert_none_failed()
    [new] = report["roots"]
    assert new["signing"]
    assert new["sha256"] != old
    assert report["leaves"]["of_old_signer"] == 0
    assert report["leaves"]["held"] >= len(EVERYBODY)


def test_a_revoked_workload_is_cut_off_alone_until_its_pod_is_restarted(
    mesh: Mesh,
) -> None:
    [first] = [
        token for token, state in states(mesh, REVOKED).items() if state == "connected"
    ]
    try:
        told(mesh, "token", "revoke", REVOKED)
        until(lambda: xds(mesh, REVOKED) == "NOT CONNECTED", "its stream is cut")
        refusal = f"the token of {REVOKED} was revoked"
        until(
            lambda: refusal in run("docker", "logs", PROXY).stderr,
            "it is refused when it comes again",
        )
        assert states(mesh, REVOKED)[first] == "revoked"
        mesh.until_synced(names=EVERYBODY - {REVOKED})
        until(lambda: answers(PAGE), "the page is served")
    finally:
        docker("restart", "-t", "1", POD)
    mesh.until_synced(60)
    after = states(mesh, REVOKED)
    assert after.pop(first) == "revoked"
    assert "connected" in after.values()


@dataclass(frozen=True, slots=True)
class Outsider:
    """A process that is no part of the mesh, alone on a machine: a container that the registrar is
    to overlook.
    """

    address: str
    folder: Path

    def as_root(self, *commands: str) -> None:
        """What `join` said to run."""
        self._beside(
            "--rm",
            "--cap-add=NET_ADMIN",
            "--entrypoint=sh",
            image_of(POD),
            "-ec",
            "\n".join(commands),
        )

    def start_proxy(self, command: str) -> None:
        """The last of the commands; a container's user stands for setpriv."""
        envoy = shlex.split(command)
        options = ("-d", "--name", f"{OUTSIDER}-proxy", "--user=1337:1337")
        self._beside(*options, image_of(PROXY), *envoy[envoy.index("envoy") :])

    def start_name_server(self, command: str) -> None:
        """The command before that, which ends with `&`."""
        perl = shlex.split(command.removesuffix("&"))
        options = ("-d", "--name", f"{OUTSIDER}-dns", "--user=1337:1337")
        self._beside(
            *options,
            "--entrypoint=perl",
            image_of(POD),
            *perl[perl.index("perl") + 1 :],
        )

    def _beside(self, *arguments: str) -> None:
        docker(
            "run",
            f"--network=container:{OUTSIDER}",
            "-v",
            f"{self.folder}:{self.folder}",
            *arguments,
        )


def image_of(container: str) -> str:
    return str(inspect(container)["Config"]["Image"])


def answer(container: str, url: str) -> str:
    """The answer that the container gets; empty without one."""
    return docker("exec", container, "python3", "-c", ASK, url, check=False)


@pytest.fixture
def outsider(mesh: Mesh, tmp_path: Path) -> Iterator[Outsider]:
    network = next(
        n
        for n in sorted(inspect(POD)["NetworkSettings"]["Networks"])
        if n.startswith("dockermesh")
    )
    # Docker would have it ask 127.0.0.11, which no machine outside Docker does.
    resolv_conf = tmp_path / "resolv.conf"
    servers = [
        line
        for line in Path("/etc/resolv.conf").read_text().splitlines()
        if line.startswith("nameserver")
    ]
    resolv_conf.write_text("\n".join(servers) + "\n")
    containers = (f"{OUTSIDER}-dns", f"{OUTSIDER}-proxy", OUTSIDER)
    docker("rm", "-f", *containers, check=False)
    docker(
        *(
            "run",
            "-d",
            "--name",
            OUTSIDER,
            "--network",
            network,
            "-e",
            "SERVICE_IGNORE=true",
        ),
        *(
            "-v",
            f"{resolv_conf}:/etc/resolv.conf:ro",
            "--entrypoint=python3",
            image_of(APP),
            "-c",
            OUTSIDE,
        ),
    )
    folder = tmp_path / "join"
    try:
        yield Outsider(
            str(inspect(OUTSIDER)["NetworkSettings"]["Networks"][network]["IPAddress"]),
            folder,
        )
    finally:
        for workload in mesh.workloads("joined"):
            mesh.command("token", "revoke", str(workload["name"]))
        docker("rm", "-f", *containers, check=False)
        if folder.exists():
            back = (
                "--entrypoint=chown",
                image_of(POD),
                "-R",
                f"{os.getuid()}:{os.getgid()}",
                str(folder),
            )
            docker("run", "--rm", "-v", f"{folder}:{folder}", *back)


def test_a_process_outside_docker_joins_calls_and_is_called(
    mesh: Mesh, outsider: Outsider
) -> None:
    where = ("--address", outsider.address, "--dir", str(outsider.folder))
    joined = mesh.command(
        "join", "--service", "outside", "--port", "8080/http", "--dns", *where
    )
    assert joined.returncode == 0, joined.stderr
    *as_root, name_server, proxy = joined.stdout.splitlines()
    outsider.as_root(*as_root)
    outsider.start_name_server(name_server)
    outsider.start_proxy(proxy)
    mesh.until_synced(60, {"joined/outside-1"})
    caller = "URI=spiffe://cluster.local/ns/default/sa/bookinfo-productpage"
    until(
        lambda: caller in answer(APP, "http://outside:8080/"),
        "called by name, over mutual TLS",
        HEALS_S,
    )
    until(
        lambda: "Reviews is healthy" in answer(OUTSIDER, "http://reviews:9080/health"),
        "it calls",
        HEALS_S,
    )

    release, revoke = joined.stderr.splitlines()[-2:]
    docker("rm", "-f", f"{OUTSIDER}-dns", f"{OUTSIDER}-proxy")
    outsider.as_root(release, "! iptables-save | grep -e ISTIO -e REDIRECT")
    told(mesh, *revoke.split()[1:])
    until(lambda: not mesh.workloads("joined"), "it is no workload any more", HEALS_S)
