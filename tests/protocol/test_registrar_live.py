"""The live registrar against a real Docker engine and a real Consul agent."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import aiohttp
import pytest
from patience import SLACK
from registrar_rig import (
    Agent,
    Host,
    ScopedEngine,
    consul,
    host,
    plain,
    registrar,
    until,
)

from dockermesh.model import Catalog, Health, Workload
from dockermesh.registrar.options import Options
from dockermesh.registry.docker.registry import DockerRegistry

__all__ = ["consul", "host"]
pytestmark = [pytest.mark.docker, pytest.mark.consul]


async def test_a_container_is_listed_while_it_runs_and_gone_before_its_process_is(
    consul: Agent, host: Host
) -> None:
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
        assert time.monotonic() - started < 1.0 * SLACK
        container.reload()
        assert container.status == "running"


async def test_a_reload_signal_keeps_the_entry(consul: Agent, host: Host) -> None:
    async with registrar(consul, host) as running:
        container = plain(
            host,
            command="trap 'echo reloaded' HUP; echo up; while :; do sleep 0.1; done",
        )
        before = await until(consul.services)

        async def traps() -> bool:
            return b"up" in container.logs()

        await until(traps)
        container.kill("HUP")

        async def reloaded() -> bool:
            return b"reloaded" in container.logs()

        await until(reloaded)
        await running._workers.idle()
        assert await consul.services() == before


async def test_pause_rename_and_health_follow(consul: Agent, host: Host) -> None:
    async with registrar(consul, host):
        check = {
            "test": ["CMD-SHELL", "test -e /tmp/ok"],
            "interval": 200_000_000,
            "retries": 1,
        }
        container = plain(host, healthcheck=check)

        async def status(wanted: str, name: str = "web") -> bool:
            entries = await consul.get(f"health/service/{name}")
            statuses = {
                c["Status"] for e in entries for c in e["Checks"] if c["ServiceName"]
            }
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
            return list(await consul.services()) == [
                f"host-a:renamed-{host.scope}:9080"
            ]

        await until(renamed)


def now_ports(record: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(p.service, p.port, p.protocol) for p in Workload.from_dict(record).ports]


async def test_a_pod_is_attested_fast_and_its_app_takes_its_address(
    consul: Agent, host: Host
) -> None:
    async with registrar(consul, host, heal=False):
        path = "kv/dockermesh/workloads/host-a/shop/reviews-1?raw"
        started = time.monotonic()
        pod = host.pod()
        created = time.monotonic() - started

        async def attested() -> Workload | None:
            found = await consul.get(path)
            return (
                Workload.from_dict(found) if found and found["token_sha256"] else None
            )

        workload = await until(attested)
        print(
            f"start returned after {created:.3f} s, attested after"
            f" {time.monotonic() - started:.3f} s"
        )
        assert time.monotonic() - started - created < 1.0 * SLACK
        proxy = host.member("proxy", pod)
        app = host.member(
            "app",
            pod,
            environment={"SERVICE_9080_NAME": "reviews", "SERVICE_TAGS": "version|v1"},
        )

        assert workload.token_sha256 == hashlib.sha256(b"secret").hexdigest()
        assert (workload.name, workload.service, workload.host) == (
            "shop/reviews-1",
            "reviews",
            "host-a",
        )
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
            return times == sorted(times) and all(
                c.status == "running" for c in (pod, proxy, app)
            )

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


async def test_a_new_registrar_changes_only_what_is_stale(
    consul: Agent, host: Host
) -> None:
    stale, kept = plain(host, "stale"), plain(host, "kept")
    async with registrar(consul, host):

        async def both() -> bool:
            return len(await consul.services()) == 2

        await until(both)
    foreign = {
        "ID": "foreign",
        "Name": "foreign",
        "Port": 1,
        "Meta": {"dockermesh-host": "host-b"},
    }
    unowned = {"ID": "host-a:by-hand:1", "Name": "by-hand", "Port": 1}
    async with aiohttp.ClientSession() as http:
        for body in (foreign, unowned):
            await http.put(f"{consul.url}/v1/agent/service/register", json=body)
    stale.remove(force=True)
    kept_id = f"host-a:kept-{host.scope}:9080"

    async def catalog() -> dict[str, int]:
        # An agent's entries come into the catalog a moment later.
        return {
            e["ServiceID"]: e["ModifyIndex"]
            for e in await consul.get("catalog/service/web") or ()
        }

    async def both_in_catalog() -> dict[str, int]:
        found = await catalog()
        return found if len(found) == 2 else {}

    indexes = await until(both_in_catalog)
    async with registrar(consul, host):

        async def exact() -> bool:
            return set(await consul.services()) == {
                kept_id,
                "foreign",
                "host-a:by-hand:1",
            }

        await until(exact, 10)

        async def kept_alone() -> bool:
            return (await catalog()).keys() == {kept_id}

        await until(kept_alone)
        assert (await catalog())[kept_id] == indexes[kept_id], (
            "an unchanged entry is not written again"
        )
    kept.stop(timeout=1)


async def test_entries_return_when_consul_lost_everything(
    consul: Agent, host: Host
) -> None:
    async with registrar(consul, host):
        plain(host)
        await until(consul.services)
        consul.kill()
        consul.start()
        await until(consul.is_led, 40)
        await until(consul.services, 10)


async def test_a_dead_hosts_entries_are_cleaned_up_by_another(
    consul: Agent, host: Host
) -> None:
    async with aiohttp.ClientSession() as http:
        body = {
            "ID": "dead",
            "Name": "dead",
            "Port": 1,
            "Meta": {"dockermesh-host": "host-dead"},
        }
        await http.put(f"{consul.url}/v1/agent/service/register", json=body)
        await http.put(
            f"{consul.url}/v1/kv/dockermesh/workloads/host-dead/shop/x-1", data=b"{}"
        )
    async with registrar(consul, host, grace=0.5):

        async def clean() -> bool:
            keys = await consul.get("kv/dockermesh/workloads/host-dead/?keys")
            return not keys and "dead" not in await consul.services()

        await until(clean, 20)
        assert (await consul.get("kv/dockermesh/hosts/host-a"))[0]["Session"]


async def test_docker_alone_is_a_registry(host: Host) -> None:
    catalogs: list[Catalog] = []
    engine = ScopedEngine(host.scope)
    registry = DockerRegistry(
        engine,
        Options(hostname="h", internal=True),
        domain="service.consul",
        heal=False,
    )
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
