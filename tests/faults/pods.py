"""Pods as Compose would run them: the real pod script in a network of its own, a real Envoy as uid
1337, and an app. And who says what runs where: a stand-in for the registrar.

The stand-in does what the registrar does with Consul (it writes whatever is missing, again and
again), without a Docker engine to read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from envoy_binary import envoy_binary
from lab import add_network, remove_network
from processes import SOURCE, Child, Consul, Group, until

from dockermesh.model import ServedPort, Workload, WorkloadKind
from dockermesh.model.contract import KEY_WORKLOADS, META_SERVICE, META_WORKLOAD

APP = Path(__file__).with_name("app.py")
PORT = 9080
CONTROL_PLANE = "control-plane.dockermesh"
# A Python of the machine's: the one that runs this may be where only root looks.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _children(pid: int, name: str) -> list[int]:
    """The processes of a name that a process started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found if Path(f"/proc/{p}/comm").read_text() == f"{name}\n"]


def _has_ended(pid: int) -> bool:
    """Whether a process is no more, or only waits for its parent to ask how it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


class Pod:
    """One replica of a service: network, proxy, app."""

    def __init__(
        self,
        folder: Path,
        trust: Path,
        name: str,
        number: int,
        *,
        kind: WorkloadKind = WorkloadKind.SIDECAR,
        labels: Mapping[str, str] | None = None,
        serves: bool = True,
        keeps: bool = False,
    ) -> None:
        """`keeps`: its proxy is run by the script of the image, which keeps what Envoy accepted."""
        self.name, self.address = name, f"10.77.1.{number}"
        self.net = name.replace("/", "-")
        self.service = name.rpartition("/")[2].rpartition("-")[0]
        self.kind, self.labels = kind, dict(labels or {"app": self.service})
        self.serves, self.keeps = serves, keeps
        self.folder = folder / f"{self.net}-{number}"
        self._images = folder / SOURCE / "compose/images"
        self._trust = trust
        self.token = ""
        self.pod: subprocess.Popen[str] | None = None
        self.proxy: Child | None = None
        self.app: Child | None = None

    def inside(self, *command: str, uid: int = 0) -> list[str]:
        """A command in this pod's network."""
        drop = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        as_user = ["setpriv", *drop] if uid else []
        return ["ip", "netns", "exec", self.net, *as_user, *command]

    async def start(self) -> None:
        """Network, pod, proxy and app."""
        add_network(self.net, self.address)
        run_dir = self._furnish()
        self.token = await asyncio.to_thread(self._start_pod, run_dir)
        bootstrap = run_dir / "envoy.json"
        await until(bootstrap.exists, f"{self.name} has a bootstrap")
        self.proxy = self._scripted() if self.keeps else self._plain(bootstrap)
        self.proxy.start()
        if self.serves:
            serve = (sys.executable, "-S", str(APP), "serve", str(PORT), self.name)
            self.app = Child(self.inside(*serve), self.folder / "app.log")
            self.app.start()

    @property
    def run_dir(self) -> Path:
        """What the pod and its proxy share."""
        return self.folder / "run"

    def _plain(self, bootstrap: Path) -> Child:
        flags = ("--use-dynamic-base-id", "--concurrency", "1", "-l", "warning")
        command = self.inside(envoy_binary(), "-c", str(bootstrap), *flags, uid=1337)
        return Child(command, self.folder / "envoy.log")

    def _scripted(self) -> Child:
        binary = self.folder / "envoy"
        binary.symlink_to(envoy_binary())
        command = self.inside(
            *("bash", str(self._images / "proxy/proxy")),
            *(str(binary), "-c", str(self.run_dir / "envoy.json")),
            *("--concurrency", "1", "--log-level", "warning", "--drain-time-s", "5"),
            "--disable-hot-restart",
            uid=1337,
        )
        # As a container's: hot restart has names there, and the script's secrets.
        own = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", own, "sh", *command]
        environment = {"DOCKERMESH_RUN": str(self.run_dir), "PATH": _PATH}
        return Group(command, self.folder / "envoy.log", environment)

    async def restart_proxy(self) -> None:
        """As `docker restart` of its container."""
        assert self.proxy is not None
        await self.proxy.terminate()
        self.proxy.start()

    async def kill_envoy(self) -> None:
        """As a crash, which the script sees; its connections are closed when this returns."""
        assert self.proxy is not None
        for pid in _children(self.proxy.pid, "envoy"):
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: _has_ended(pid), f"Envoy {pid} has ended")

    def _furnish(self) -> Path:
        run_dir = self.run_dir
        run_dir.mkdir(parents=True)
        self.folder.chmod(0o755)
        for name in ("capture.rules", "bootstrap.json", "trust.json", "pod"):
            shutil.copy(self._images / "pod" / name, self.folder / name)
        (self.folder / "trust").symlink_to(self._trust)
        return run_dir

    def _start_pod(self, run_dir: Path) -> str:
        is_gateway = self.kind is WorkloadKind.GATEWAY
        if is_gateway:
            command = self.inside(
                "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0"
            )
            subprocess.run(command, check=True)
        environment = {
            "PATH": os.environ["PATH"],
            "DOCKERMESH_ETC": str(self.folder),
            "DOCKERMESH_RUN": str(run_dir),
            "DOCKERMESH_WORKLOAD": self.name,
            "DOCKERMESH_KIND": self.kind.value,
            "DOCKERMESH_CAPTURE": "none" if is_gateway else "sidecar",
            "DOCKERMESH_CONTROL_PLANE": f"{CONTROL_PLANE}:15012",
        }
        with (self.folder / "pod.log").open("wb") as log:
            self.pod = subprocess.Popen(
                self.inside("bash", str(self.folder / "pod")),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.pod.stdout is not None
        attest = json.loads(self.pod.stdout.readline())
        return str(attest["token_sha256"])

    def processes(self) -> Iterator[tuple[str, int | None]]:
        """What of it should run."""
        yield "pod", self.pod.pid if self.pod is not None else None
        for what, child in (("proxy", self.proxy), ("app", self.app)):
            yield what, child.known_pid if child is not None else None

    def pause(self) -> None:
        """Its proxy hangs."""
        assert self.proxy is not None
        self.proxy.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Its proxy does not hang any more."""
        assert self.proxy is not None
        self.proxy.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End all of it, and the network."""
        for child in (self.app, self.proxy):
            if child is not None:
                child.kill()
        if self.pod is not None:
            self.pod.kill()
            self.pod.wait()
        remove_network(self.net)

    def record(self) -> Workload:
        """What the registrar would write of it."""
        served = (ServedPort(self.service, PORT, "http"),) if self.serves else ()
        return Workload(
            id=f"pod-{self.net}",
            name=self.name,
            service=self.service,
            kind=self.kind,
            address=self.address,
            host="test-host",
            labels=self.labels,
            ports=served,
            token_sha256=self.token,
        )

    def registration(self) -> dict[str, Any]:
        """Its app as a service of Consul."""
        return {
            "ID": self.net,
            "Name": self.service,
            "Address": self.address,
            "Port": PORT,
            "Meta": {
                META_WORKLOAD: self.name,
                META_SERVICE: self.service,
                "protocol": "http",
                **self.labels,
            },
        }


class Registrar:
    """Keeps Consul as it should be: what is missing there is written again."""

    def __init__(self, consul: Consul) -> None:
        self.consul = consul
        self.records: dict[str, Workload] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    def add(self, pod: Pod) -> None:
        """A pod that runs."""
        self.records[pod.name] = pod.record()
        if pod.serves:
            self.services[pod.net] = pod.registration()

    def drop(self, pod: Pod) -> None:
        """A pod that is gone."""
        self.records.pop(pod.name, None)
        self.services.pop(pod.net, None)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(
                aiohttp.ClientError, OSError, ValueError, TimeoutError
            ):
                await self.reconcile()
            await asyncio.sleep(0.5)

    async def reconcile(self) -> None:
        """Compare, and write what differs."""
        present = await self.consul.get("agent/services") or {}
        for key, service in list(self.services.items()):
            if key not in present:
                await self.consul.put("agent/service/register", service)
        for key in present:
            if key not in self.services:
                await self.consul.put(f"agent/service/deregister/{key}")
        prefix = f"{KEY_WORKLOADS}test-host/"
        listed = set(await self.consul.get(f"kv/{prefix}?keys") or ())
        known = {prefix + name: record for name, record in self.records.items()}
        for key in known.keys() - listed:
            await self.consul.put(f"kv/{key}", known[key].to_dict())
        for key in listed - known.keys():
            await self.consul.delete(f"kv/{key}")
