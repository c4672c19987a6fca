"""Through a whole control plane: a real Envoy runs the modules of WasmPlugins, and one that is
missing, broken or crashing costs what its `failStrategy` says, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, workload
from envoy_binary import envoy_binary
from gateway_rig import bootstrap
from ports import free_ports
from wasm_module import (
    adding_header,
    adding_its_config,
    answering,
    crashing,
    crashing_at_connections,
    module,
    refusing_its_config,
)

from dockermesh.client.mesh import applying
from dockermesh.client.mesh.api_client import ApiClient, Endpoint
from dockermesh.model import WorkloadKind

pytestmark = [
    pytest.mark.binary,
    pytest.mark.consul,
    pytest.mark.asyncio(loop_scope="module"),
]

EDGE = workload("shop/edge-1", kind=WorkloadKind.GATEWAY)
ROUTES = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  servers:
  - {{port: {{number: {one}, name: http, protocol: HTTP}}, hosts: ["*"]}}
  - {{port: {{number: {two}, name: http-2, protocol: HTTP}}, hosts: ["*"]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: app}}
spec:
  hosts: [app.example]
  resolution: STATIC
  ports: [{{number: {app}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: app.example}}}}]}}]
"""


@dataclass
class World:
    """A gateway's Envoy with two ports, and what serves modules."""

    mesh: Running
    folder: Path
    one: int
    two: int
    server: str
    modules: dict[str, bytes]

    @property
    def client(self) -> ApiClient:
        return ApiClient(Endpoint(f"http://{self.mesh.settings.api}", self.mesh.token))

    async def apply(self, name: str, **spec: Any) -> None:
        """A plugin, by the command line's way."""
        document = {
            "apiVersion": "extensions.istio.io/v1alpha1",
            "kind": "WasmPlugin",
            "metadata": {"name": name},
            "spec": spec,
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(document))
        await self.apply_file(file)

    async def apply_file(self, file: Path) -> None:
        items, _ = applying.read_items([str(file)], "default")
        made = await asyncio.to_thread(
            lambda: list(applying.apply_items(self.client, items))
        )
        assert made

    @property
    def crashes(self) -> int:
        """How often a module has crashed."""
        return (self.folder / "envoy.log").read_text().count("unreachable")

    def put(self, content: bytes) -> dict[str, str]:
        """Serve a module; the fields that name it."""
        digest = hashlib.sha256(content).hexdigest()
        self.modules[digest] = content
        return {"url": f"{self.server}/{digest}", "sha256": digest}

    async def remove(self, name: str) -> None:
        path = "/apis/extensions.istio.io/v1alpha1/namespaces/default/wasmplugins/"
        await asyncio.to_thread(self.client.request, "DELETE", path + name)

    async def ask(self, port: int = 0) -> tuple[int, str]:
        """Status and body; 0 where the connection is closed."""
        try:
            async with (
                ClientSession(timeout=ClientTimeout(10)) as http,
                http.get(f"http://127.0.0.1:{port or self.one}/") as answer,
            ):
                return answer.status, await answer.text()
        except (ClientError, TimeoutError):
            return 0, ""

    async def until(self, status: int, text: str = "", port: int = 0) -> None:
        """Wait for this answer."""

        async def is_so() -> bool:
            found, body = await self.ask(port)
            return found == status and text in body

        try:
            await eventually(is_so, 20)
        except TimeoutError:
            raise AssertionError(await self.ask(port)) from None

    async def condition(self, name: str, kind: str) -> dict[str, Any]:
        path = "/apis/extensions.istio.io/v1alpha1/namespaces/default/wasmplugins/"
        found = await asyncio.to_thread(self.client.find, path + name)
        return next(c for c in found["status"]["conditions"] if c["type"] == kind)


@contextlib.asynccontextmanager
async def envoy(mesh: Running, folder: Path) -> AsyncIterator[None]:
    """The gateway's, with the bootstrap of a pod but for its own listeners."""
    file = bootstrap(folder, mesh, EDGE)
    command = [envoy_binary(), "-c", str(file), "-l", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--use-dynamic-base-id", "--concurrency", "1"),
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _echo(request: web.Request) -> web.Response:
    return web.json_response([[k.lower(), v] for k, v in request.headers.items()])


@contextlib.asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("wasm")
    modules: dict[str, bytes] = {}

    async def give(request: web.Request) -> web.Response:
        found = modules.get(request.match_info["path"])
        return web.Response(body=found) if found else web.Response(status=404)

    one, two = free_ports(2)
    async with (
        serving(_echo) as app,
        serving(give) as server,
        Agent() as agent,
        control_plane(folder, agent) as mesh,
    ):
        made = World(mesh, folder, one, two, f"http://127.0.0.1:{server}", modules)
        routes = folder / "routes.yaml"
        routes.write_text(ROUTES.format(one=one, two=two, app=app))
        await made.apply_file(routes)
        await mesh.add(EDGE)
        async with envoy(mesh, folder):
            await made.until(200)
            yield made


async def test_modules_run_in_order_with_their_settings_where_they_match(
    world: World,
) -> None:
    await world.apply(
        "config",
        **world.put(adding_its_config("x-order")),
        pluginConfig={"key": [1]},
        match=[{"mode": "CLIENT", "ports": [{"number": world.one}]}],
    )
    await world.apply(
        "first",
        **world.put(adding_header("x-order", "first")),
        phase="AUTHN",
        match=[{"ports": [{"number": world.one}]}],
    )
    await world.until(200, "first")
    await world.until(200, "key")
    _, body = await world.ask()
    found = [value for key, value in json.loads(body) if key == "x-order"]
    assert ",".join(found) == 'first,{"key":[1]}'
    assert "x-order" not in (await world.ask(world.two))[1]

    await world.apply(
        "config",
        **world.put(adding_its_config("x-order")),
        pluginConfig={"key": [2]},
        match=[{"mode": "CLIENT", "ports": [{"number": world.one}]}],
    )
    await world.until(200, '{\\"key\\":[2]}')

    async def is_programmed() -> bool:
        return bool((await world.condition("first", "Programmed"))["status"] == "True")

    await eventually(is_programmed, 20)
    for name in ("config", "first"):
        await world.remove(name)


async def test_a_module_may_answer_itself(world: World) -> None:
    await world.apply("answer", **world.put(answering(403, "by the module")))
    await world.until(403, "by the module")
    await world.remove("answer")
    await world.until(200)


async def test_a_file_is_brought_by_apply(world: World) -> None:
    (world.folder / "brought.wasm").write_bytes(answering(418, "brought"))
    await world.apply("file", url="file://brought.wasm")
    await world.until(418, "brought")
    (world.folder / "brought.wasm").write_bytes(answering(418, "again"))
    await world.apply("file", url="file://brought.wasm")
    await world.until(418, "again")
    await world.remove("file")
    await world.until(200)


@pytest.mark.parametrize(
    ("title", "content", "says"),
    [
        ("missing", b"", "answered 404"),
        ("other", answering(403, "never"), "has the sha256"),
        ("broken", b"\0asm\1\0\0\0 proxy_abi_version_0_2_1", "Unable to create"),
        ("refusing", refusing_its_config(), "Unable to create"),
    ],
)
async def test_what_cannot_run_costs_what_fail_strategy_says(
    world: World, title: str, content: bytes, says: str
) -> None:
    named = world.put(content) if content else {"url": f"{world.server}/none"}
    if title == "other":
        world.modules[named["sha256"]] = answering(403, "changed")
    ports = [{"number": world.one}]
    await world.apply(title, **named, match=[{"ports": ports}])
    await world.until(503, f"the module of WasmPlugin default/{title}")
    assert (await world.ask(world.two))[0] == 200
    # What else changes in the listener is not held up.
    await world.apply("beside", **world.put(answering(403, "beside")), phase="AUTHN")
    await world.until(403, "beside")
    await world.remove("beside")

    async def is_told() -> bool:
        told = [await world.condition(title, k) for k in ("Accepted", "Programmed")]
        return any(says in c["message"] and c["status"] == "False" for c in told)

    await eventually(is_told, 20)
    await world.apply(
        title, **named, match=[{"ports": ports}], failStrategy="FAIL_OPEN"
    )
    await world.until(200)
    await world.remove(title)


async def test_an_update_that_proxies_refuse_leaves_the_one_of_before(
    world: World,
) -> None:
    await world.apply("update", **world.put(answering(403, "of before")))
    await world.until(403, "of before")
    await world.apply("update", **world.put(refusing_its_config()))

    async def is_told() -> bool:
        told = await world.condition("update", "Accepted")
        return "the one of before stays in use" in str(told["message"])

    await eventually(is_told, 20)
    # Listeners are taken as before.
    await world.apply("beside", **world.put(answering(403, "beside")), phase="AUTHN")
    await world.until(403, "beside")
    await world.remove("beside")
    await world.until(403, "of before")
    await world.apply("update", **world.put(answering(403, "mended")))
    await world.until(403, "mended")
    await world.remove("update")
    await world.until(200)


async def test_no_request_fails_while_plugins_come_and_go(world: World) -> None:
    """Neither on a connection that goes on in a listener that is replaced, nor on new ones, which
    the listener that replaces it takes: that has a plugin only when the module is there.
    """
    seen: Counter[int] = Counter()
    rounds: set[str] = set()
    is_over = asyncio.Event()

    async def give_late(request: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(body=world.modules[request.match_info["path"]])

    async def call(*, keeps: bool) -> None:
        connector = TCPConnector(force_close=not keeps)
        async with ClientSession(
            timeout=ClientTimeout(30), connector=connector
        ) as http:
            while not is_over.is_set():
                try:
                    async with http.get(f"http://127.0.0.1:{world.one}/") as answer:
                        text = await answer.text()
                except ClientError:
                    seen[0] += 1
                    continue
                seen[answer.status] += 1
                if answer.status == 200 and not keeps:
                    rounds.update(v for k, v in json.loads(text) if k == "x-round")

    async with serving(give_late) as late:

        async def apply(value: str) -> None:
            named = world.put(adding_header("x-round", value))
            url = f"http://127.0.0.1:{late}/{named['sha256']}"
            await world.apply("pass", url=url, sha256=named["sha256"])
            await world.until(200, value)

        async def is_gone() -> bool:
            return "x-round" not in (await world.ask())[1]

        calling = [
            asyncio.create_task(call(keeps=keeps)) for keeps in (True, False) * 2
        ]
        for round in range(3):
            await apply(f"new-{round}")
            await apply(f"other-{round}")
            await world.remove("pass")
            await eventually(is_gone, 20)
        is_over.set()
        await asyncio.gather(*calling)
    assert seen.keys() == {200}, seen
    assert rounds == {f"{name}-{n}" for name in ("new", "other") for n in range(3)}


async def test_a_crash_is_refused_or_passed_over(world: World) -> None:
    ports = [{"number": world.one}]
    crash = world.put(crashing())
    await world.apply("crash", **crash, match=[{"ports": ports}])
    await world.until(503)
    assert [(await world.ask())[0] for _ in range(3)] == [503] * 3
    assert (await world.ask(world.two))[0] == 200
    before = world.crashes
    await world.apply(
        "crash", **crash, match=[{"ports": ports}], failStrategy="FAIL_RELOAD"
    )

    async def is_reloaded() -> bool:
        assert (await world.ask())[0] == 503
        return world.crashes >= before + 3

    await eventually(is_reloaded, 20)
    await world.apply(
        "crash", **crash, match=[{"ports": ports}], failStrategy="FAIL_OPEN"
    )
    await world.until(200)
    await world.remove("crash")


async def test_a_network_filter_stands_before_connections(world: World) -> None:
    missing = {"url": f"{world.server}/none", "type": "NETWORK"}
    await world.apply("net", **missing, match=[{"ports": [{"number": world.one}]}])
    await world.until(0)
    assert (await world.ask(world.two))[0] == 200
    await world.apply("net", **world.put(module()), type="NETWORK")
    await world.until(200)
    crash = world.put(crashing_at_connections())
    await world.apply("net", **crash, type="NETWORK")
    await world.until(0)
    await world.remove("net")
    await world.until(200)
