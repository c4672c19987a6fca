"""A mesh of real processes: Consul, control planes, pods, and clients that never stop asking.

web ── sidecar ──> sidecar ── reviews-1 | reviews-2      /        200
   └─────────────> (denied by an AuthorizationPolicy)    /secret  403
edge (gateway) ──> sidecar ── reviews-1 | reviews-2      /        200
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence import Heartbeat, not_well, of_machine, stacks
from lab import HOST
from names import Names
from pods import CONTROL_PLANE, PORT, Pod, Registrar
from processes import Consul, Plane, frozen, give_addresses, until
from traffic import Traffic

from dockermesh.model import WorkloadKind

DENY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "no-secrets", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"app": "reviews"}},
        "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/secret"]}}]}],
    },
}
STRICT = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "default", "namespace": "default"},
    "spec": {"mtls": {"mode": "STRICT"}},
}
GATEWAY = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "edge", "namespace": "default"},
    "spec": {
        "selector": {"app": "edge"},
        "servers": [
            {
                "port": {"number": 8080, "name": "http", "protocol": "HTTP"},
                "hosts": ["*"],
            }
        ],
    },
}
ENTRY = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "entry", "namespace": "default"},
    "spec": {
        "hosts": ["*"],
        "gateways": ["edge"],
        "http": [
            {"route": [{"destination": {"host": "reviews", "port": {"number": PORT}}}]}
        ],
    },
}
CONFIG = (DENY, STRICT, GATEWAY, ENTRY)
REVIEWS = "reviews.service.consul"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a fault is to be shown on. Faults with equal needs share a mesh."""

    planes: int = 1
    servers: int = 1
    """of Consul"""
    leaf_lifetime: str = "24h"
    shifted: bool = False
    """whether the control plane's clock can be set (`inside/sitecustomize.py`)"""


class Mesh:
    """All of it."""

    def __init__(self, needs: Needs, folder: Path) -> None:
        self.needs, self.folder = needs, folder
        self.source = frozen(folder)
        self.servers = [
            Consul(folder, n, needs.servers) for n in range(1, needs.servers + 1)
        ]
        self.consul = self.servers[0]
        self.planes = [self.plane(n) for n in range(1, needs.planes + 1)]
        self.registrar = Registrar(self.consul)
        self.names = Names()
        self.traffic = Traffic()
        self.heartbeat = Heartbeat()
        trust = folder / "trust"
        self.web = Pod(folder, trust, "shop/web-1", 1, serves=False)
        self.reviews = [
            Pod(
                folder,
                trust,
                f"shop/reviews-{n}",
                1 + n,
                labels={"app": "reviews", "version": f"v{n}"},
            )
            for n in (1, 2)
        ]
        self.edge = Pod(
            folder,
            trust,
            "shop/edge-1",
            9,
            kind=WorkloadKind.GATEWAY,
            labels={"app": "edge"},
            serves=False,
        )
        self.pods = [self.web, *self.reviews, self.edge]

    def plane(self, number: int, source: Path | None = None) -> Plane:
        """A control plane of this mesh, of other sources where they are given; it is not started."""
        if self.needs.shifted:
            os.environ["FAULTS_CLOCK"] = str(self.folder / "clock")
        made = Plane(
            self.folder,
            number,
            self.consul.url,
            source=source or self.source,
            leaf_lifetime=self.needs.leaf_lifetime,
            config=self.folder / "config",
            debug_paths=(str(Path(__file__).with_name("inside")),),
        )
        made.check_source()
        return made

    def new_pod(
        self,
        name: str,
        number: int,
        labels: dict[str, str],
        *,
        serves: bool = True,
        keeps: bool = False,
    ) -> Pod:
        """One more replica; it is not started."""
        trust = self.folder / "trust"
        return Pod(
            self.folder, trust, name, number, labels=labels, serves=serves, keeps=keeps
        )

    def processes(self) -> dict[str, int | None]:
        """All that should run, by name; None for what was not started, or ended on purpose."""
        found = {f"control plane {p.number}": p.known_pid for p in self.planes}
        found |= {f"Consul {s.number}": s.known_pid for s in self.servers}
        for pod in self.pods:
            found |= {f"{pod.name}'s {what}": pid for what, pid in pod.processes()}
        return found | {f"clients {n}": pid for n, pid in self.traffic.processes()}

    async def evidence(self, since: float) -> list[str]:
        """How it stands with the machine and the processes, for who has to find out why something
        was violated.
        """
        said = [f"the machine: {of_machine()}", self.heartbeat.since(since)]
        said += not_well(self.processes())
        planes = self.running
        dumped = await stacks([p.pid for p in planes], [p.log for p in planes])
        print(dumped, file=sys.stderr, flush=True)
        return list(filter(None, said))

    @property
    def running(self) -> list[Plane]:
        """The control planes whose process runs."""
        return [plane for plane in self.planes if plane.runs]

    async def start(self) -> None:
        """Bring everything up, and wait until requests are answered."""
        self.heartbeat.start()
        self.names.start(HOST)
        for server in self.servers:
            server.start()
        await until(self.consul.has_leader, "Consul has a leader")
        self.registrar.start()
        self.names.addresses[CONTROL_PLANE] = [p.address for p in self.planes]
        for plane in self.planes:
            plane.start()
        for plane in self.planes:
            await plane.wait_ready()
        await self.planes[0].apply(*CONFIG)
        for pod in self.pods:
            await pod.start()
            self.registrar.add(pod)
        await self.settled()
        await self._load()

    async def _load(self) -> None:
        vip = {"host": self.reviews[0].address, "port": PORT, "authority": REVIEWS}
        inner = [
            {**vip, "name": "mesh", "path": "/", "expect": "200"},
            {**vip, "name": "mesh, new connections", "path": "/", "expect": "200"},
            {**vip, "name": "denied", "path": "/secret", "expect": "403"},
        ]
        inner[1]["fresh"] = True
        outer = {
            "name": "gateway",
            "host": self.edge.address,
            "port": 8080,
            "authority": "any.example",
            "path": "/",
            "expect": "200",
        }
        await until(lambda: self._answers(outer), "the gateway answers")
        await self.traffic.start(self.web.inside(), inner)
        await self.traffic.start([], [outer])
        await until(lambda: len({s.route for s in self.traffic.seen}) == 4, "all ask")
        await self.traffic.flows()

    @staticmethod
    async def _answers(route: dict[str, Any]) -> bool:
        reader, writer = await asyncio.open_connection(route["host"], route["port"])
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        got = await reader.read()
        writer.close()
        return b" 200 " in got[:20]

    async def proxies_synced(self) -> bool:
        """Whether every pod's proxy has what some control plane says it should have."""
        found: set[str] = set()
        for plane in self.running:
            with contextlib.suppress(Exception):
                found |= await plane.synced()
        return found >= {pod.name for pod in self.pods}

    async def settled(self, seconds: float = 90) -> float:
        """Wait until all proxies are in sync; the seconds that it took."""
        return await until(self.proxies_synced, "all proxies are in sync", seconds)

    async def stop(self) -> None:
        """End everything."""
        self.heartbeat.stop()
        await self.traffic.stop()
        self.registrar.stop()
        self.names.close()
        for pod in self.pods:
            with contextlib.suppress(Exception):
                pod.stop()
        for child in (*self.planes, *self.servers):
            child.kill()
        # Transports close when the loop comes round.
        await asyncio.sleep(0.1)

    def logs(self) -> str:
        """The end of what the control planes logged."""
        parts = []
        for plane in self.planes:
            if plane.log.exists():
                parts.append(f"--- {plane.log.name}\n{plane.log.read_text()[-2000:]}")
        return "\n".join(parts)


_ADDRESSES = 5
_given: list[bool] = []


@contextlib.asynccontextmanager
async def mesh(needs: Needs) -> AsyncIterator[Mesh]:
    """A mesh that runs, and is gone afterwards."""
    if not _given:
        give_addresses(_ADDRESSES)
        _given.append(True)
    folder = Path(tempfile.mkdtemp(prefix="dockermesh-faults-"))
    os.chmod(folder, 0o755)  # noqa: PTH101  # proxies run as another user
    made = Mesh(needs, folder)
    began = time.monotonic()
    try:
        await made.start()
        print(f"  (a mesh after {time.monotonic() - began:.0f} s: {needs})", flush=True)
        yield made
    except TimeoutError:
        print(made.logs(), flush=True)
        raise
    finally:
        await made.stop()
        shutil.rmtree(folder, ignore_errors=True)
