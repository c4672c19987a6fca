"""Mutual TLS between two real Envoys, and what a server's proxy says to everybody else."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from ports import free_ports
from tls_rig import DEADLINE_S, Apps, Party, Proxy, bootstrap, request, talk

from dockermesh.ca import Authority, new_material
from dockermesh.config.documents import read_text
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.mesh import state as meshes
from dockermesh.translate.mesh.settings import MeshSettings, istio_config
from dockermesh.translate.translator import Translator

pytestmark = [pytest.mark.binary, pytest.mark.asyncio(loop_scope="module")]

SERVED = {
    "strict": ("HTTP", "STRICT"),
    "both": ("HTTP", "PERMISSIVE"),
    "plain": ("HTTP", "DISABLE"),
    "strict-tcp": ("TCP", "STRICT"),
    "both-tcp": ("TCP", "PERMISSIVE"),
    "own-tls": ("HTTPS", "PERMISSIVE"),
    "sniffed": ("", "PERMISSIVE"),
    "sniffed-tcp": ("", "PERMISSIVE"),
}
"""Ports of the server: protocol and mode."""


@dataclass(frozen=True)
class World:
    """Ports of the server's proxy by name, of the client's proxy by service, and the parties."""

    server: dict[str, int]
    client: dict[str, int]
    friend: Party
    stranger: Party
    admin: int
    apps: Apps

    async def refused_servers(self, service: str) -> int:
        """How often the client's proxy refused a server of the service for its name."""
        _, text = await request(self.admin, path="/stats?filter=ssl.fail_verify_san")
        lines = [
            line for line in text.splitlines() if f"||{service}.service.consul." in line
        ]
        return sum(int(line.rpartition(":")[2]) for line in lines)


def config(ports: dict[str, int], apps: Apps) -> str:
    """The server's Sidecar and PeerAuthentication."""
    targets = {
        "strict-tcp": apps.tcp,
        "both-tcp": apps.tcp,
        "sniffed-tcp": apps.tcp,
        "own-tls": apps.https,
    }
    ingress, levels = [], []
    for name, (protocol, mode) in SERVED.items():
        port = f"{{number: {ports[name]}, name: {name.replace('-', '')}, protocol: '{protocol}'}}"
        ingress.append(
            f"  - {{port: {port}, defaultEndpoint: '127.0.0.1:{targets.get(name, apps.http)}'}}"
        )
        levels.append(f"    {ports[name]}: {{mode: {mode}}}")
    return "\n".join(
        [
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: db}\nspec:",
            "  workloadSelector: {labels: {app: db}}\n  ingress:",
            *ingress,
            (
                "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name:"
                " db}\nspec:"
            ),
            "  selector: {matchLabels: {app: db}}\n  mtls: {mode: STRICT}\n  portLevelMtls:",
            *levels,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bare}\n"
            "spec: {hosts: [bare], http: [{retries: {attempts: 5}, route: [{destination: {host:"
            " bare}}]}]}",
            "---\napiVersion: networking.istio.io/v1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
            "spec: {protocolDetectionTimeout: 5s}\n".replace(
                "networking.istio.io/v1", "mesh.istio.io/v1alpha1"
            ),
        ]
    )


def state(ports: dict[str, int], apps: Apps) -> meshes.MeshState:
    """A service per port of the server, two that lead to it although its workload serves neither
    of them, and one that is the server's, which others have registered under, too.
    """
    kinds = {
        "HTTP": Protocol.HTTP,
        "TCP": Protocol.TCP,
        "HTTPS": Protocol.HTTPS,
        "": Protocol.AUTO,
    }
    services, served = {}, []
    listed = [
        *((name, name, "shop/db-1") for name in SERVED),
        ("impostor", "strict", "shop/impostor-1"),
    ]
    for name, target, owner in [*listed, ("unmeshed", "both", "")]:
        protocol, number = kinds[SERVED[target][0]], ports[target]
        endpoint = Endpoint("127.0.0.1", number, workload=owner)
        services[f"{name}.service.consul"] = Service(
            name, f"{name}.service.consul", (Port(number, protocol),), (endpoint,)
        )
        if name not in {"impostor", "unmeshed"}:
            served.append(ServedPort(name, number, protocol.value))
    both = ports["both"]
    others = (
        Endpoint("127.0.0.1", apps.http, "plain", both),
        Endpoint("127.0.0.1", apps.http, "posing", both, workload="shop/db-9"),
        Endpoint("127.0.0.1", both, "evil", workload="evil/web-1"),
    )
    services["beside.service.consul"] = Service(
        "beside",
        "beside.service.consul",
        (Port(both, Protocol.HTTP),),
        (Endpoint("127.0.0.1", both, "own", workload="shop/db-1"), *others),
    )
    direct = Endpoint("127.0.0.1", apps.http, "direct", both)
    services["bare.service.consul"] = Service(
        "bare", "bare.service.consul", (Port(both, Protocol.HTTP),), (direct,)
    )
    served.append(ServedPort("beside", both, "http"))
    evil = Workload("4", "evil/web-1", "web", ports=(served[-1],), since={"beside": 2})
    server = Workload(
        "1",
        "shop/db-1",
        "db",
        address="127.0.0.1",
        labels={"app": "db"},
        ports=tuple(served),
        since={"beside": 1},
    )
    rightful = Workload(
        "2",
        "shop/impostor-1",
        "impostor",
        ports=(ServedPort("impostor", ports["strict"], "http"),),
    )
    reading = read_text(config(ports, apps))
    assert not [f for f in reading.findings if f.is_error], reading.findings
    known = Catalog(services, {w.name: w for w in (server, rightful, evil)})
    # A failure is to be seen at once, not after the time for which requests are held.
    return meshes.build_mesh(
        known,
        config=istio_config(reading.resources),
        settings=MeshSettings(hold_attempts=0),
    )


def proxy_of(workload: Workload) -> meshes.Proxy:
    return meshes.Proxy(
        workload.name,
        labels=workload.labels,
        address=workload.address,
        workload=workload,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    authority, foreign = (
        Authority(new_material("cluster.local", now)) for _ in range(2)
    )
    friend, db = (
        Party(folder / who, authority, "default", who) for who in ("web", "db")
    )
    stranger = Party(folder / "stranger", foreign, "default", "web")
    own_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own_tls.load_cert_chain(stranger.chain, stranger.key)
    apps = Apps(own_tls)
    taken = free_ports(len(SERVED) + 2 + 16)
    ports = dict(zip(SERVED, taken, strict=False))
    admin_one, admin_two, *bound = taken[len(SERVED) :]
    mesh = state(ports, apps)
    translator = Translator()
    translator.update(mesh)
    inbound = {f"in-{port}": ("virtualInbound", port) for port in ports.values()}
    server = bootstrap(
        translator.snapshot(proxy_of(mesh.workloads["shop/db-1"])),
        db,
        admin_one,
        inbound,
    )
    caller = Workload("3", "shop/web-1", "web", address="127.0.0.9")
    client, outbound = {}, {}
    for host, service in mesh.services.items():
        number, is_http = service.ports[0].number, service.ports[0].protocol.is_http
        source = names.listener("0.0.0.0" if is_http else mesh.vips[host], number)
        client[service.name] = bound.pop()
        outbound[service.name] = (source, client[service.name])
    calling = bootstrap(
        translator.snapshot(proxy_of(caller)), friend, admin_two, outbound
    )
    async with AsyncExitStack() as running:
        running.callback(apps.stop)
        await running.enter_async_context(
            Proxy(folder / "server.json", server, list(ports.values()))
        )
        await running.enter_async_context(
            Proxy(folder / "client.json", calling, list(client.values()))
        )
        yield World(ports, client, friend, stranger, admin_two, apps)


async def test_strict_answers_proxies_of_the_mesh_alone(world: World) -> None:
    port = world.server["strict"]
    assert (await request(port))[0] == 0
    assert (await request(port, tls=world.stranger.context("istio")))[0] == 0
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    assert (await request(port, tls=nobody))[0] == 0
    status, headers = await request(port, tls=world.friend.context("istio"))
    assert status == 200
    assert (
        "URI=spiffe://cluster.local/ns/default/sa/web"
        in headers["x-forwarded-client-cert"]
    )


async def test_permissive_answers_both(world: World) -> None:
    port = world.server["both"]
    status, headers = await request(
        port,
        header="x-forwarded-client-cert: URI=spiffe://cluster.local/ns/a/sa/root\r\n",
    )
    assert status == 200
    assert "x-forwarded-client-cert" not in headers
    assert (await request(port, tls=world.friend.context("istio")))[0] == 200
    assert (await request(port, tls=world.stranger.context("istio")))[0] == 0


async def test_a_port_that_is_disabled_takes_plaintext_alone(world: World) -> None:
    assert (await request(world.server["plain"]))[0] == 200
    assert (await request(world.server["plain"], tls=world.friend.context("istio")))[
        0
    ] == 0


async def test_bytes_are_carried_in_strict_and_permissive_mode(world: World) -> None:
    assert (
        await talk(world.server["strict-tcp"], tls=world.friend.context("istio"))
        == b"SHOUT"
    )
    assert (
        await talk(world.server["both-tcp"], tls=world.friend.context("istio"))
        == b"SHOUT"
    )
    assert (
        await talk(world.server["strict-tcp"], tls=world.stranger.context("istio"))
        == b""
    )


async def test_a_server_that_speaks_first_is_reached_in_plaintext_where_that_is_allowed(
    world: World,
) -> None:
    assert await talk(world.server["both-tcp"]) == b"SHOUT"
    assert await talk(world.server["sniffed-tcp"]) == b"SHOUT"
    assert await talk(world.server["strict-tcp"], patience_s=10) == b""


async def test_an_apps_own_tls_passes_untouched(world: World) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname = False
    own.load_verify_locations(world.stranger.root)
    assert (await request(world.server["own-tls"], tls=own))[0] == 200


@pytest.mark.parametrize("service", ["strict", "both", "plain", "sniffed"])
async def test_a_client_uses_mutual_tls_where_the_server_takes_it(
    world: World, service: str
) -> None:
    status, headers = await request(
        world.client[service], host=f"{service}.service.consul"
    )
    assert status == 200, headers
    assert ("x-forwarded-client-cert" in headers) == (service != "plain")


async def test_requests_to_an_undeclared_port_are_handled_as_requests_under_tls_too(
    world: World,
) -> None:
    """The server's proxy adds what only its HTTP handling can."""
    _, headers = await request(world.client["sniffed"], host="sniffed.service.consul")
    assert (
        "By=spiffe://cluster.local/ns/default/sa/db"
        in headers["x-forwarded-client-cert"]
    )


@pytest.mark.parametrize("service", ["strict-tcp", "both-tcp", "sniffed-tcp"])
async def test_a_client_carries_bytes_over_mutual_tls(
    world: World, service: str
) -> None:
    assert await talk(world.client[service]) == b"SHOUT"


async def test_a_client_of_http_that_connects_early_is_carried_as_bytes(
    world: World,
) -> None:
    """Nobody routes or judges its requests, so nobody waits for them either."""
    taken = "tcp.*sniffed.service.consul.downstream_cx_total"
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.client["sniffed"]
        )
        # Until the proxy has given up to look for requests.
        while " 1" not in str(  # noqa: ASYNC110 (another process)
            (await request(world.admin, path=f"/stats?filter={taken}"))[1]
        ):
            await asyncio.sleep(0.02)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-forwarded-client-cert" not in answer, "no proxy took it for requests"


async def test_a_client_refuses_a_server_that_is_not_who_the_service_may_be(
    world: World,
) -> None:
    assert (await request(world.client["impostor"], host="impostor.service.consul"))[
        0
    ] == 503
    assert await world.refused_servers("impostor") == 1


async def test_who_registers_under_a_meshed_service_gets_none_of_its_requests(
    world: World,
) -> None:
    """Neither a container without a proxy, nor one that names a workload, nor another project's."""
    for _ in range(40):
        status, headers = await request(
            world.client["beside"], host="beside.service.consul"
        )
        assert status == 200
        assert (
            "spiffe://cluster.local/ns/default/sa/db"
            in (headers["x-forwarded-client-cert"])
        )
    assert await world.refused_servers("beside") == 0, "nobody else was even asked"


async def test_an_app_without_a_proxy_gets_a_request_once_whatever_it_says(
    world: World,
) -> None:
    path = "/unreached"
    status, _ = await request(
        world.client["bare"], host="bare.service.consul", path=path
    )
    assert (status, world.apps.deliveries(path)) == (200, 1)


async def test_an_endpoint_without_a_proxy_is_called_in_plaintext(world: World) -> None:
    status, headers = await request(
        world.client["unmeshed"], host="unmeshed.service.consul"
    )
    assert status == 200
    assert "x-forwarded-client-cert" not in headers
