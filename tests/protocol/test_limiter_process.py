"""The control plane runs the limiter as a process of its own: from the first limit on, with the
limits at hand, again when it has died; and says what is wrong where users look.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane
from envoy.service.ratelimit.v3 import rls_pb2
from patience import SLACK
from ports import free_ports

from dockermesh.controlplane import limiter as limiter_process
from dockermesh.limiter.orders import Orders
from dockermesh.limiter.service import DECIDE
from dockermesh.model import Identity
from dockermesh.model.contract import CONTROL_PLANE_HOST

pytestmark = pytest.mark.consul
RULES = "/apis/networking.istio.io/v1/namespaces/default/destinationrules"
RULE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "other"},
    "spec": {"host": "web"},
}
LIMITS = "/apis/dockermesh.io/v1alpha1/namespaces/istio-system/ratelimits"


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent() as made:
        yield made


@pytest.fixture
async def running(tmp_path: Path, agent: Agent) -> AsyncIterator[Running]:
    (port,) = free_ports(1)
    async with control_plane(tmp_path, agent, limiter=f"127.0.0.1:{port}") as plane:
        yield plane


def limit(requests: int) -> dict[str, Any]:
    return {
        "apiVersion": "dockermesh.io/v1alpha1",
        "kind": "RateLimit",
        "metadata": {"name": "few", "namespace": "istio-system"},
        "spec": {
            "mode": "GLOBAL",
            "limits": [{"name": "all", "requests": requests, "unit": "HOUR"}],
        },
    }


async def decide(plane: Running) -> str:
    """What the limiter says to a proxy of the mesh; the status of the call if it says nothing."""
    authority = plane.plane.trust.authority
    leaf = authority.issue_workload(Identity("cluster.local", "shop", "web"))
    credentials = grpc.ssl_channel_credentials(
        authority.roots_pem, leaf.key, leaf.certificate
    )
    question = rls_pb2.RateLimitRequest(domain="istio-system/few")
    question.descriptors.add().entries.add(key="limit", value="all")
    name = (("grpc.ssl_target_name_override", CONTROL_PLANE_HOST),)
    port = plane.settings.limiter.rpartition(":")[2]
    target = f"127.0.0.1:{port}"
    async with grpc.aio.secure_channel(target, credentials, options=name) as channel:
        call = channel.unary_unary(
            DECIDE,
            rls_pb2.RateLimitRequest.SerializeToString,
            rls_pb2.RateLimitResponse.FromString,
        )
        try:
            answer = await call(question, timeout=5 * SLACK, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return str(error.code())
        return str(rls_pb2.RateLimitResponse.Code.Name(answer.overall_code))


async def reasons(plane: Running) -> list[str]:
    _, found = await plane.ask("GET", f"{LIMITS}/few")
    conditions = found.get("status", {}).get("conditions", ())
    return [c["reason"] for c in conditions if c["type"] == "Accepted"]


async def test_it_runs_from_the_first_limit_on_and_is_told_each(
    running: Running,
) -> None:
    limiter = running.plane.limiter
    assert limiter.pid == 0
    assert limiter.problem == ""
    status, _ = await running.ask("POST", LIMITS, **limit(2))
    assert status == 201
    await eventually(lambda: limiter.report.port and not limiter.problem, 20)
    assert [await decide(running) for _ in range(3)] == ["OK", "OK", "OVER_LIMIT"]

    pid = limiter.pid
    await running.ask("PUT", f"{LIMITS}/few", **limit(4))
    await running.plane.settled()

    async def passes() -> bool:
        return await decide(running) == "OK"

    await eventually(passes, 20)
    # Of the four, two were taken under the limit of before.
    assert [await decide(running) for _ in range(2)] == ["OK", "OVER_LIMIT"]
    assert limiter.pid == pid
    counted = 'limit="istio-system/few/all",outcome="passed"} 4'
    await eventually(lambda: counted in running.plane.metrics_text(), 20)


async def test_one_that_hangs_is_ended_and_started_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter_process, "SILENCE_S", 7.0)
    limiter = running.plane.limiter
    await running.ask("POST", LIMITS, **limit(2))
    await eventually(lambda: limiter.report.port and not limiter.problem, 20)
    pid = limiter.pid
    # It goes on while it has only nothing new to say.
    await asyncio.sleep(10)
    assert (limiter.pid, limiter.problem) == (pid, "")

    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: "hangs" in limiter.problem, 30)
    await eventually(lambda: limiter.pid != pid and not limiter.problem, 30)
    assert await decide(running) == "OK"


async def test_it_is_told_what_is_new_alone_and_what_fails_in_it_is_said(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = running.plane.limiter
    await running.ask("POST", LIMITS, **limit(2))
    await eventually(lambda: limiter.report.port and not limiter.problem, 20)
    told = []
    pack = Orders.pack
    monkeypatch.setattr(Orders, "pack", lambda self: told.append(self) or pack(self))
    # Another resource is no news for it.
    await running.ask("POST", RULES, **RULE)
    await running.plane.settled()
    limiter.wake()
    await asyncio.sleep(0.2)
    assert told == []
    await running.ask("PUT", f"{LIMITS}/few", **limit(4))
    await eventually(lambda: told, 20)
    assert told[0].domains and told[0].identity is None

    monkeypatch.setattr(Orders, "pack", lambda self: b"\0\0\0\1?")
    pid = limiter.pid
    await running.ask("PUT", f"{LIMITS}/few", **limit(5))
    await eventually(lambda: "the limiter failed" in limiter.problem, 20)
    monkeypatch.setattr(Orders, "pack", pack)
    await eventually(lambda: limiter.pid != pid and not limiter.problem, 60)


async def test_it_is_started_again_and_a_limit_says_while_nothing_counts(
    running: Running,
) -> None:
    limiter = running.plane.limiter
    await running.ask("POST", LIMITS, **limit(2))
    await eventually(lambda: limiter.report.port and not limiter.problem, 20)
    pid = limiter.pid
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: limiter.pid != pid and not limiter.problem, 30)
    assert await decide(running) == "OK"

    # Somebody else takes the port while it is away.
    port = int(running.settings.limiter.rpartition(":")[2])
    os.kill(limiter.pid, signal.SIGSTOP)
    os.kill(limiter.pid, signal.SIGKILL)
    server = None
    async with asyncio.timeout(20 * SLACK):
        while server is None:
            try:
                server = await asyncio.start_server(
                    lambda _, w: w.close(), "127.0.0.1", port
                )
            except OSError:
                os.kill(limiter.pid, signal.SIGKILL)
                await asyncio.sleep(0.01)
    await eventually(lambda: "cannot listen" in limiter.problem, 30)

    async def is_told() -> bool:
        return await reasons(running) == ["NotCounted"]

    await eventually(is_told, 20)
    assert "dockermesh_limiter_degraded 1.0" in running.plane.metrics_text()
    server.close()
    await eventually(lambda: not limiter.problem, 60)


async def test_it_ends_with_the_control_plane(tmp_path: Path, agent: Agent) -> None:
    (port,) = free_ports(1)
    async with control_plane(tmp_path, agent, limiter=f"127.0.0.1:{port}") as plane:
        await plane.ask("POST", LIMITS, **limit(2))
        await eventually(lambda: plane.plane.limiter.report.port, 20)
        pid = plane.plane.limiter.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
