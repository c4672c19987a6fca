"""An engine that is not this host: a dockerd in a network namespace of its own, whose published
ports are on a loopback and an address that are not ours. A cable leads there, and its socket is
here, as a mounted one is in a CI job's container.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from patience import SLACK, until

from dockermesh.inject.images import Images

NETNS = "dockermesh-remote"
HERE, THERE = "198.18.77.1", "198.18.77.2"
"""Our end of the cable, and the engine's (RFC 2544's addresses, which nobody uses)."""
DOCKERMESH = str(Path(sys.executable).parent / "dockermesh")
CONTROL_PLANE_IMAGE = "dockermesh/control-plane:0.1.0"
CONSUL_IMAGE = "dockermesh/consul:1.8.7"
BASE_IMAGE = os.environ.get("BASE_IMAGE") or "python:3.11-slim-bookworm"
"""What images are built on here; `make test` sets it where no registry is reached."""
SOURCE = os.environ.get("DOCKERMESH_TEST_IMAGES_FROM", "")
"""The engine that the images are taken from; this machine's own if empty."""
_running: list[subprocess.Popen[bytes]] = []


def run(
    *command: str,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """A command with its output as text."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        timeout=seconds * SLACK,
    )
    if check:
        told = f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, told
    return done


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """The engine, and how the command line is pointed at it."""

    folder: Path
    settings: Mapping[str, str]

    @property
    def socket(self) -> Path:
        """Its unix socket."""
        return self.folder / "docker.sock"

    @property
    def address(self) -> str:
        """The same for `docker -H`."""
        return f"unix://{self.socket}"

    def by_socket(self) -> dict[str, str]:
        """The environment of a CI job with the socket mounted."""
        return {**self.settings, "DOCKER_HOST": f"unix://{self.socket}"}

    def by_tcp(self) -> dict[str, str]:
        """The environment of a CI job with the engine as a service."""
        return {**self.settings, "DOCKER_HOST": f"tcp://{THERE}:2375"}

    def by_tls(self) -> dict[str, str]:
        """The same with TLS and a client's certificate."""
        return {
            **self.settings,
            "DOCKER_HOST": f"tcp://{THERE}:2376",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(self.folder / "certificates"),
        }

    def start(self, *, tls: bool = False) -> None:
        """Start dockerd in the namespace."""
        where = f"tcp://{THERE}:{2376 if tls else 2375}"
        pem = self.folder / "certificates"
        verify = ["--tlsverify", f"--tlscacert={pem}/ca.pem"]
        verify += [f"--tlscert={pem}/server.pem", f"--tlskey={pem}/server.key"]
        options = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec"]
        options += [f"--pidfile={self.folder}/pid", *(verify if tls else [])]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *inside(),
                    "dockerd",
                    "-H",
                    f"unix://{self.socket}",
                    "-H",
                    where,
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _running.append(process)
        answers = ("docker", "-H", f"unix://{self.socket}", "info")
        until(lambda: run(*answers, check=False).returncode == 0, "dockerd answers")

    def stop(self) -> None:
        """End dockerd; its containers end with it."""
        process = _running.pop()
        process.send_signal(signal.SIGTERM)
        process.wait(60 * SLACK)

    def load_images(self) -> None:
        """Take over the mesh's images, and what they are built on."""
        _copy_images(["-H", SOURCE] if SOURCE else [], ["docker", "-H", self.address])

    def give_images(self, docker: list[str]) -> None:
        """Hand them on to another engine, which this command line leads to."""
        _copy_images(["-H", self.address], docker)

    def docker(self, *words: str, check: bool = True) -> str:
        """`docker WORDS` on this engine, without the last newline."""
        return run("docker", *words, env=self.by_socket(), check=check).stdout.strip()


def _copy_images(source: list[str], docker: list[str]) -> None:
    images = Images.from_environment(os.environ)
    names = [BASE_IMAGE, CONTROL_PLANE_IMAGE, CONSUL_IMAGE, images.pod, images.proxy]
    with subprocess.Popen(
        ["docker", *source, "save", *names], stdout=subprocess.PIPE
    ) as saved:
        subprocess.run(
            [*docker, "load"], stdin=saved.stdout, check=True, capture_output=True
        )
    assert saved.returncode == 0, "the mesh's images are not here -> run: make images"


def inside() -> list[str]:
    """What runs a command in the engine's network namespace."""
    return ["nsenter", f"--net=/run/netns/{NETNS}"]


def make_network() -> None:
    """The namespace, and a cable to it."""
    remove_network()
    for line in (
        f"ip netns add {NETNS}",
        f"ip link add dm-here type veth peer name dm-there netns {NETNS}",
        f"ip address add {HERE}/30 dev dm-here",
        "ip link set dm-here up",
        f"ip -n {NETNS} address add {THERE}/30 dev dm-there",
        f"ip -n {NETNS} link set dm-there up",
        f"ip -n {NETNS} link set lo up",
        f"ip -n {NETNS} route add default via {HERE}",
    ):
        run(*line.split())


def remove_network() -> None:
    """Delete it; the cable goes with it."""
    run("ip", "netns", "delete", NETNS, check=False)
    run("ip", "link", "delete", "dm-here", check=False)


def make_certificates(folder: Path) -> None:
    """A CA, and certificates for the engine and its client, as docker:dind makes them."""
    folder.mkdir()
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    run(
        *f"{new} -x509 -days 2 -subj /CN=ca -keyout {folder}/ca.key -out {folder}/ca.pem".split()
    )
    for name, file, key in (
        ("engine", "server.pem", "server.key"),
        ("me", "cert.pem", "key.pem"),
    ):
        request, names = folder / "request.pem", folder / "names"
        names.write_text(f"subjectAltName=IP:{THERE}\n")
        run(*f"{new} -subj /CN={name} -keyout {folder}/{key} -out {request}".split())
        sign = f"openssl x509 -req -days 2 -in {request} -CA {folder}/ca.pem -CAkey {folder}/ca.key"
        run(*f"{sign} -CAcreateserial -extfile {names} -out {folder}/{file}".split())


def new_folder() -> Path:
    """Where an engine keeps what it has; what an interrupted run left behind is ended and
    deleted first. Short, as the paths of sockets are limited; and on a disk that overlays work on.
    """
    where = Path("/var/lib")
    for left in where.glob(f"{NETNS}*"):
        clean(left)
    return Path(tempfile.mkdtemp(prefix=f"{NETNS}-", dir=where))


def clean(folder: Path) -> None:
    """End what runs from the folder of an engine, and delete what it had."""
    _end("dockerd", folder, signal.SIGTERM)
    # An engine that was killed leaves its containerd, and that one its containers.
    _end("", folder, signal.SIGKILL)

    mounted = [
        line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()
    ]
    for point in reversed([m for m in mounted if m.startswith(f"{folder}/")]):
        run("umount", "--lazy", point, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _end(name: str, folder: Path, how: signal.Signals) -> None:
    """Signal what has that name, or any if it is empty, and the folder on its command line."""
    ended = [
        process
        for process in Path("/proc").glob("[0-9]*")
        if int(process.name) != os.getpid() and _runs_from(process, name, folder)
    ]
    for process in ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.name), how)
    until(
        lambda: not any(_runs_from(process, name, folder) for process in ended),
        f"what ran from {folder} ends",
    )


def _runs_from(process: Path, name: str, folder: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes()
        own = (process / "comm").read_text().strip()
    except OSError:
        return False
    return f"{folder}/".encode() in words and own.startswith(name)
