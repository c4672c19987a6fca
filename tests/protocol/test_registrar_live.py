"""The live registrar against a real Docker engine and a real Consul agent.

The engine is shared with whatever else runs on the machine, so the registrar under test sees only containers that carry
the test's own label; everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import docker
import pytest

from dockermesh.engine.consul_client import ConsulClient
from dockermesh.engine.docker import DockerEngine
from dockermesh.model import Catalog, Health, Workload
from dockermesh.model.consul import ConsulSettings
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.docker_registry import DockerRegistry
from dockermesh.registrar.lease import HostLease
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar

pytestmark = [pytest.mark.docker, pytest.mark.consul]
IMAGE = "dockermesh-base:bookworm"
SCOPE = "dockermesh.test"
STAY = "trap 'exit 0' TERM; while :; do sleep 0.2; done"


class ScopedEngine(DockerEngine):
    """The engine as if only this test's containers existed."""

    def __init__(self, scope: str, base_url: str = "") -> None:
        super().__init__(base_url)
        self.scope = scope

    async def list_containers(self) -> list[dict[str, Any]]:
        return [c for c in await super().list_containers() if c["Labels"].get(SCOPE) == self.scope]

    async def inspect(self, container: str) -> dict[str, Any] | None:
        found = await super().inspect(container)
        return found if found and found["Config"]["Labels"].get(SCOPE) == self.scope else None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class Agent:
    """A Consul agent of our own."""

    ports: list[int] = field(default_factory=lambda: free_ports(4))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        names = ("http", "server", "serf-lan", "serf-wan")
        flags = [f"-{n}-port={p}" for n, p in zip(names, self.ports, strict=True)]
        self.process = subprocess.Popen(
            ["consul", "agent", "-dev", "-dns-port=-1", "-grpc-port=-1", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/v1/{path}") as answer:
            return await answer.json(content_type=None) if answer.status == 200 else None

    async def services(self) -> dict[str, Any]:
        return await self.get("agent/services") or {}

    async def is_led(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return bool(await self.get("status/leader"))
        return False


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> Any:
    """What `condition` gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        await asyncio.sleep(0.005)
    return found


@pytest.fixture
async def consul() -> AsyncIterator[Agent]:
    if not shutil.which("consul"):
        pytest.fail("the consul binary is missing")
    agent = Agent()
    agent.start()
    await until(agent.is_led, 40)
    yield agent
    agent.kill()


class Host:
    """Starts containers that carry the test's label and removes them all."""

    def __init__(self) -> None:
        self.api = docker.from_env()
        self.scope = uuid.uuid4().hex[:8]

    def run(self, name: str, command: str = STAY, **options: Any) -> Any:
        labels = {SCOPE: self.scope, **options.pop("labels", {})}
        arguments = {"entrypoint": ["sh", "-c"], "command": [command], "detach": True, **options}
        return self.api.containers.run(IMAGE, name=f"{name}-{self.scope}", labels=labels, **arguments)

    def pod(self, workload: str = "shop/reviews-1") -> Any:
        token = hashlib.sha256(b"secret").hexdigest()
        said = json.dumps({"dockermesh": "attest", "workload": workload, "token_sha256": token})
        labels = {
            "dockermesh.io/role": "pod",
            "dockermesh.io/workload": workload,
            "dockermesh.io/service": "reviews",
            "dockermesh.io/kind": "sidecar",
            "dockermesh.io/labels": '{"version":"v1"}',
            "com.docker.compose.project": "shop",
        }
        return self.run("pod", f"echo '{said}'; {STAY}", labels=labels, ports={"9080/tcp": None})

    def member(self, role: str, pod: Any, **options: Any) -> Any:
        labels = {"dockermesh.io/role": role, "dockermesh.io/workload": "shop/reviews-1"}
        labels |= {"dockermesh.io/service": "reviews"}
        return self.run(role, labels=labels, network_mode=f"container:{pod.id}", **options)

    def close(self) -> None:
        for container in self.api.containers.list(all=True, filters={"label": f"{SCOPE}={self.scope}"}):
            container.remove(force=True)
        self.api.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@contextlib.asynccontextmanager
async def registrar(consul: Agent, host: Host, name: str = "host-a", **options: Any) -> AsyncIterator[Registrar]:
    engine = ScopedEngine(host.scope, options.pop("base_url", ""))
    client = ConsulClient(ConsulSettings(port=consul.ports[0]))
    lease = HostLease(client, name, renew=0.5, ttl=10, grace=options.pop("grace", 60.0))
    sink = ConsulSink(client, name, lease=lease)
    settings = Options(hostname=name, host=name, internal=True)
    running = Registrar(engine, sink, settings, **options)
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        assert not task.done(), "the registrar never ends by itself"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()
        await engine.close()


EXPOSED = {"ports": {"9080/tcp": None}, "environment": {"SERVICE_NAME": "web", "SERVICE_TAGS": "version|v1"}}


def plain(host: Host, name: str = "web", **more: Any) -> Any:
    return host.run(name, **(EXPOSED | more))


async def test_a_container_is_listed_while_it_runs_and_gone_before_its_process_is(consul: Agent, host: Host) -> None:
    async with registrar(consul, host):
        container = plain(host, command="trap '' TERM; while :; do sleep 0.2; done")
        services = await until(consul.services)
        (entry,) = services.values()
        assert entry["Service"] == "web"
        assert entry["Tags"] == ["version|v1"]
        assert entry["Meta"]["dockermesh-host"] == "host-a"
        started = time.monotonic()
        container.kill("TERM")

        async def gone() -> bool:
            return not await consul.services()

        await until(gone)
        assert time.monotonic() - started < 1.0
        container.reload()
        assert container.status == "running"


async def test_a_reload_signal_keeps_the_entry(consul: Agent, host: Host) -> None:
    async with registrar(consul, host) as running:
        container = plain(host, command="trap 'echo reloaded' HUP; while :; do sleep 0.1; done")
        before = await until(consul.services)
        container.kill("HUP")

        async def reloaded() -> bool:
            return b"reloaded" in container.logs()

        await until(reloaded)
        await running._workers.idle()
        assert await consul.services() == before


async def test_pause_rename_and_health_follow(consul: Agent, host: Host) -> None:
    async with registrar(consul, host):
        check = {"test": ["CMD-SHELL", "test -e /tmp/ok"], "interval": 200_000_000, "retries": 1}
        container = plain(host, healthcheck=check)

        async def status(wanted: str, name: str = "web") -> bool:
            entries = await consul.get(f"health/service/{name}")
            statuses = {c["Status"] for e in entries for c in e["Checks"] if c["ServiceName"]}
            return statuses == {wanted}

        await until(lambda: status("critical"))
        container.exec_run("touch /tmp/ok")
        await until(lambda: status("passing"))
        container.pause()
        await until(lambda: status("critical"))
        container.unpause()
        await until(lambda: status("passing"))
        container.rename(f"renamed-{host.scope}")

        async def renamed() -> bool:
            return list(await consul.services()) == [f"host-a:renamed-{host.scope}:9080"]

        await until(renamed)


def now_ports(record: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(p.service, p.port, p.protocol) for p in Workload.from_dict(record).ports]


async def test_a_pod_is_attested_fast_and_its_app_takes_its_address(consul: Agent, host: Host) -> None:
    async with registrar(consul, host, heal=False):
        path = "kv/dockermesh/workloads/host-a/shop/reviews-1?raw"
        started = time.monotonic()
        pod = host.pod()
        created = time.monotonic() - started

        async def attested() -> Workload | None:
            found = await consul.get(path)
            return Workload.from_dict(found) if found and found["token_sha256"] else None

        workload = await until(attested)
        print(f"start returned after {created:.3f} s, attested after {time.monotonic() - started:.3f} s")
        assert time.monotonic() - started - created < 1.0
        proxy = host.member("proxy", pod)
        app = host.member("app", pod, environment={"SERVICE_9080_NAME": "reviews", "SERVICE_TAGS": "version|v1"})

        assert workload.token_sha256 == hashlib.sha256(b"secret").hexdigest()
        assert (workload.name, workload.service, workload.host) == ("shop/reviews-1", "reviews", "host-a")
        pod.reload()
        address = pod.attrs["NetworkSettings"]["IPAddress"]
        assert workload.address == address

        async def members_known() -> bool:
            now = Workload.from_dict(await consul.get(path))
            return (now.app_container, now.proxy_container) == (app.id, proxy.id)

        await until(members_known)
        assert now_ports(await consul.get(path)) == [("reviews", 9080, "auto")]
        pod.stop(timeout=0)

        async def unattested() -> bool:
            return not (await consul.get(path))["token_sha256"]

        await until(unattested)
        assert now_ports(await consul.get(path)) == [("reviews", 9080, "auto")]
        for container in (app, proxy, pod):
            container.remove(force=True)

        async def removed() -> bool:
            return await consul.get(path) is None

        await until(removed)


async def test_members_follow_a_restarted_pod(consul: Agent, host: Host) -> None:
    pod = host.pod()
    proxy = host.member("proxy", pod)
    app = host.member("app", pod)
    async with registrar(consul, host):
        pod.restart(timeout=1)

        async def healed() -> bool:
            for container in (pod, proxy, app):
                container.reload()
            times = [c.attrs["State"]["StartedAt"] for c in (pod, proxy, app)]
            return times == sorted(times) and all(c.status == "running" for c in (pod, proxy, app))

        await until(healed, 10)
        inside = app.exec_run("cat /proc/net/fib_trie").output
        pod.reload()
        assert pod.attrs["NetworkSettings"]["IPAddress"].encode() in inside
        app.stop(timeout=1)
        other = plain(host)
        await until(consul.services)
        app.reload()
        assert app.status == "exited", "what the user stopped stays stopped"
        other.stop(timeout=1)


async def test_a_new_registrar_changes_only_what_is_stale(consul: Agent, host: Host) -> None:
    stale, kept = plain(host, "stale"), plain(host, "kept")
    async with registrar(consul, host):

        async def both() -> bool:
            return len(await consul.services()) == 2

        await until(both)
    foreign = {"ID": "foreign", "Name": "foreign", "Port": 1, "Meta": {"dockermesh-host": "host-b"}}
    unowned = {"ID": "host-a:by-hand:1", "Name": "by-hand", "Port": 1}
    async with aiohttp.ClientSession() as http:
        for body in (foreign, unowned):
            await http.put(f"{consul.url}/v1/agent/service/register", json=body)
    stale.remove(force=True)
    before = (await consul.get("catalog/service/web"))[0]["ModifyIndex"]
    indexes = {e["ServiceID"]: e["ModifyIndex"] for e in await consul.get("catalog/service/web")}
    assert before
    async with registrar(consul, host):
        kept_id = f"host-a:kept-{host.scope}:9080"

        async def exact() -> bool:
            return set(await consul.services()) == {kept_id, "foreign", "host-a:by-hand:1"}

        await until(exact, 10)
        (entry,) = await consul.get("catalog/service/web")
        assert entry["ModifyIndex"] == indexes[kept_id], "an unchanged entry is not written again"
    kept.stop(timeout=1)


async def test_entries_return_when_consul_lost_everything(consul: Agent, host: Host) -> None:
    async with registrar(consul, host):
        plain(host)
        await until(consul.services)
        consul.kill()
        consul.start()
        await until(consul.is_led, 40)
        await until(consul.services, 10)


async def test_a_dead_hosts_entries_are_cleaned_up_by_another(consul: Agent, host: Host) -> None:
    async with aiohttp.ClientSession() as http:
        body = {"ID": "dead", "Name": "dead", "Port": 1, "Meta": {"dockermesh-host": "host-dead"}}
        await http.put(f"{consul.url}/v1/agent/service/register", json=body)
        await http.put(f"{consul.url}/v1/kv/dockermesh/workloads/host-dead/shop/x-1", data=b"{}")
    async with registrar(consul, host, grace=0.5):

        async def clean() -> bool:
            keys = await consul.get("kv/dockermesh/workloads/host-dead/?keys")
            return not keys and "dead" not in await consul.services()

        await until(clean, 20)
        assert (await consul.get("kv/dockermesh/hosts/host-a"))[0]["Session"]


async def test_docker_alone_is_a_registry(host: Host) -> None:
    catalogs: list[Catalog] = []
    engine = ScopedEngine(host.scope)
    registry = DockerRegistry(engine, Options(hostname="h", internal=True), heal=False)
    task = asyncio.create_task(registry.run(catalogs.append))
    try:
        plain(host)

        async def listed() -> bool:
            return bool(catalogs) and "web.service.consul" in catalogs[-1].services

        await until(listed)
        (endpoint,) = catalogs[-1].services["web.service.consul"].endpoints
        assert endpoint.labels["version"] == "v1"
        assert endpoint.health is Health.HEALTHY
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.close()
