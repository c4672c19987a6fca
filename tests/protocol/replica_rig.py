"""Several replicas, each an app behind an Envoy of its own, and clients' Envoys that carry requests
to them in HTTP/2 or in HTTP/1.1 (`carried_rig`), with endpoints that come and go while they run.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carried_rig import (
    HTTP1,
    PATIENCE_S,
    App,
    Wire,
    admin,
    app_elsewhere,
    meshed,
    outbound_listener,
    snapshot_of,
    soon,
)
from ports import free_ports, own_address
from tls_rig import Party, Proxy, bootstrap

from dockermesh.ca import Authority, new_material
from dockermesh.client.offline.render import snapshot_parts
from dockermesh.model import (
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.mesh.state import MeshState
from dockermesh.xds import Snapshot

WAYS = {"HTTP/1.1": HTTP1, "HTTP/2": ""}
DRAIN_S = 1
"""For how long a proxy drains here; a pod's does so for 5 s."""
_LOAD_ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


@dataclass
class Replica:
    """An app, and where its proxy is."""

    name: str
    address: str
    admin: int
    app: App = field(default_factory=App)
    proxy: Proxy | None = None

    @property
    def workload(self) -> str:
        """The name of its pod."""
        return f"shop/{self.name}"

    def listens(self, port: int) -> bool:
        """Whether its proxy takes connections there."""
        with suppress(OSError), socket.create_connection((self.address, port)):
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its proxy."""
        assert self.proxy is not None
        os.kill(self.proxy.pid, number)


@dataclass(frozen=True)
class World:
    """The replicas and the clients' proxies: their ports by what carries and by service."""

    services: Mapping[str, Protocol]
    replicas: Sequence[Replica]
    ports: Mapping[tuple[str, str], int]
    admins: Mapping[str, int]
    folder: Path
    listens: Mapping[Protocol, int]
    more: str

    def wire(self, way: str, service: str, *, source: str = "") -> Wire:
        """A client's connection, from this address."""
        made = Wire(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(PATIENCE_S)
        made.bind((source or "127.0.0.1", 0))
        made.connect(("127.0.0.1", self.ports[way, service]))
        return made

    def stays(self, *staying: Replica) -> None:
        """Tell the running clients that there are these replicas and no others."""
        for way, text in WAYS.items():
            mesh = _mesh(self, staying, text)
            _write_endpoints(self.folder / way[-1], snapshot_of(mesh, "shop/web-1"))
            soon(lambda w=way: self._is_told(w, staying), f"{way} knows the endpoints")

    def _is_told(self, way: str, there: Sequence[Replica]) -> bool:
        shown = admin(self.admins[way], "GET", "/clusters")
        pairs = re.findall(r"^(.*)::([\d.]+):\d+::hostname", shown, re.M)
        addresses = {replica.address for replica in there}
        return all(
            {a for c, a in pairs if c == _cluster(name, self.listens[protocol])}
            == addresses
            for name, protocol in self.services.items()
        )


def hash_rule(service: str, hash_by: str) -> str:
    """A DestinationRule that balances a service's requests by `consistentHash`."""
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}}}
spec:
  host: {service}.service.consul
  trafficPolicy: {{loadBalancer: {{consistentHash: {{{hash_by}}}}}}}
"""


def _cluster(service: str, port: int) -> str:
    return names.outbound_cluster(f"{service}.service.consul", port)


def _mesh(world: World, there: Sequence[Replica], text: str) -> MeshState:
    ports = [(number, protocol) for protocol, number in world.listens.items()]
    documents = [app_elsewhere(r.name, r.app.port, ports) for r in world.replicas]
    documents += [t for t in (world.more, text) if t]

    services = []
    for name, protocol in world.services.items():
        number = world.listens[protocol]
        endpoints = tuple(
            Endpoint(r.address, number, id=r.name, workload=r.workload) for r in there
        )
        host = f"{name}.service.consul"
        services.append(Service(name, host, (Port(number, protocol),), endpoints))

    served = tuple(
        ServedPort(name, world.listens[protocol], protocol.value)
        for name, protocol in world.services.items()
    )
    workloads = [
        Workload(
            r.name,
            r.workload,
            "db",
            address=r.address,
            labels={"app": r.name},
            ports=served,
        )
        for r in world.replicas
    ]
    workloads.append(Workload("2", "shop/web-1", "web", address="127.0.0.9"))
    return meshed("\n---\n".join(documents), services, workloads)


def _write_endpoints(folder: Path, snapshot: Snapshot) -> None:
    """Files that an Envoy follows in the place of a control plane."""
    folder.mkdir(exist_ok=True)
    for found in snapshot_parts(snapshot)["endpoints"]:
        made = {"resources": [{"@type": _LOAD_ASSIGNMENT, **found}]}
        file = _file(folder, found["clusterName"])
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(made))
        # Envoy notices what is moved to a place, and never half of it.
        draft.rename(file)


def _file(folder: Path, cluster: str) -> Path:
    return folder / f"{cluster.replace('|', '_')}.json"


def _follow_endpoints(config: dict[str, Any], folder: Path) -> None:
    """Have a bootstrap's clusters take their endpoints from those files."""
    for cluster in config["staticResources"]["clusters"]:
        file = _file(folder, cluster["name"])
        if not file.exists():
            continue
        del cluster["loadAssignment"]
        cluster["type"] = "EDS"
        source = {
            "pathConfigSource": {"path": str(file)},
            "resourceApiVersion": "V3",
        }
        cluster["edsClusterConfig"] = {"edsConfig": source}


@asynccontextmanager
async def running(
    folder: Path,
    services: Mapping[str, Protocol],
    replicas: int,
    more: str = "",
) -> AsyncIterator[World]:
    """The replicas, and a client's Envoy for each way to carry."""
    protocols = list(dict.fromkeys(services.values()))
    taken = free_ports(len(protocols) + replicas + len(WAYS) * (1 + len(services)))
    listens = {protocol: taken.pop() for protocol in protocols}
    made = [
        Replica(f"db-{n}", own_address(), taken.pop()) for n in range(1, replicas + 1)
    ]
    admins = {way: taken.pop() for way in WAYS}
    ports: dict[tuple[str, str], int] = {}
    world = World(services, made, ports, admins, folder, listens, more)
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )

    async with AsyncExitStack() as stack:
        for replica in made:
            await _start_server(stack, world, replica, authority)
        web = Party(folder / "web", authority, "default", "web")
        for way, text in WAYS.items():
            mesh = _mesh(world, made, text)
            listeners = {}
            for name, protocol in services.items():
                own = ports[way, name] = taken.pop()
                source = outbound_listener(mesh, name, listens[protocol], protocol)
                listeners[name] = (source, own)
            snapshot = snapshot_of(mesh, "shop/web-1")
            config = bootstrap(snapshot, web, admins[way], listeners)
            _write_endpoints(folder / way[-1], snapshot)
            _follow_endpoints(config, folder / way[-1])
            bound = [port for _, port in listeners.values()]
            await stack.enter_async_context(
                Proxy(folder / f"client{way[-1]}.json", config, bound)
            )
        yield world


async def _start_server(
    stack: AsyncExitStack, world: World, replica: Replica, authority: Authority
) -> None:
    party = Party(world.folder / replica.name, authority, "default", "db")
    snapshot = snapshot_of(_mesh(world, world.replicas, ""), replica.workload)
    inbound = {f"in-{n}": ("virtualInbound", n) for n in world.listens.values()}
    config = bootstrap(snapshot, party, replica.admin, inbound)
    for listener in config["staticResources"]["listeners"]:
        listener["address"]["socketAddress"]["address"] = replica.address
    options = ("--concurrency", "1", "--drain-time-s", str(DRAIN_S))
    file = world.folder / f"{replica.name}.json"
    replica.proxy = Proxy(file, config, [replica.admin], options=options)
    await stack.enter_async_context(replica.proxy)
    for port in world.listens.values():
        soon(
            lambda number=port: replica.listens(number),
            f"{replica.name} listens",
        )
