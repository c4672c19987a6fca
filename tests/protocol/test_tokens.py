"""Tokens by the API: listed without being told, revoked at once, and made for processes outside
Docker that join.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from bridge_rig import Agent, eventually
from control_plane_rig import (
    Running,
    certificates,
    control_plane,
    identity_in,
    token_of,
    workload,
)
from patience import SLACK

pytestmark = [pytest.mark.consul, pytest.mark.asyncio(loop_scope="module")]
OWN = "a token that the joining process made"
DIGEST = hashlib.sha256(OWN.encode()).hexdigest()
JOIN: Mapping[str, Any] = {
    "token_sha256": DIGEST,
    "address": "127.0.0.1",
    "ports": {"8080": "http"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with (
        Agent() as agent,
        control_plane(tmp_path_factory.mktemp("mesh"), agent) as running,
    ):
        yield running


async def test_a_revoked_token_ends_its_stream_at_once_and_lets_nobody_in_again(
    mesh: Running,
) -> None:
    await mesh.add(workload("shop/reviews-1"), workload("shop/ratings-1"))
    async with (
        mesh.stream("shop/reviews-1") as stream,
        mesh.stream("shop/ratings-1") as other,
    ):
        await stream.secrets("default")
        await other.secrets("default")
        code, answer = await mesh.ask(
            "POST",
            "/mesh/tokens/revoke",
            token_of("shop/reviews-1"),
            token="shop/reviews-1",
        )
        assert code == 401, "a workload's token is none for the API"
        code, answer = await mesh.ask(
            "POST", "/mesh/tokens/revoke", token="shop/reviews-1"
        )
        assert (code, answer["revoked"]) == (200, "shop/reviews-1")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.answer()
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await other.secrets("ROOTCA")
    async with mesh.stream("shop/reviews-1") as again:
        code, message = await again.refusal("default")
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "revoked" in message


async def test_tokens_are_listed_and_not_told(mesh: Running) -> None:
    await mesh.add(workload("shop/details-1", service_account="bookinfo-details"))
    made = (await mesh.ask("POST", "/mesh/tokens", service="vm"))[1]
    await eventually(lambda: _has(mesh, made["id"]), 10)
    code, listed = await mesh.ask("GET", "/mesh/tokens")
    assert code == 200
    [entry] = [item for item in listed if item["workload"] == "shop/details-1"]
    assert (entry["account"], entry["state"], len(entry["id"])) == (
        "bookinfo-details",
        "not connected",
        12,
    )
    [join] = [item for item in listed if item["id"] == made["id"]]
    assert (join["kind"], join["state"]) == ("join", "unused")
    text = json.dumps(listed)
    assert made["token"] not in text
    assert token_of("shop/details-1") not in text
    assert hashlib.sha256(made["token"].encode()).hexdigest() not in text


async def test_a_process_joins_once_as_what_its_token_says(mesh: Running) -> None:
    made = (
        await mesh.ask("POST", "/mesh/tokens", service="legacy", account="legacy-sa")
    )[1]
    await eventually(lambda: _has(mesh, made["id"]), 10)
    wanted = {**JOIN, "service": "productpage", "account": "bookinfo-productpage"}
    code, joined = await mesh.ask("POST", "/mesh/join", made["token"], **wanted)
    assert (code, joined["workload"]) == (201, "joined/legacy-1")
    assert (
        joined["roots"].encode() == (mesh.settings.trust_dir / "root.pem").read_bytes()
    )
    assert (await mesh.ask("POST", "/mesh/join", made["token"], **JOIN))[0] == 401, (
        "it works once"
    )
    await eventually(
        lambda: mesh.plane.catalog().services.get("legacy.service.consul"), 10
    )
    [endpoint] = mesh.plane.catalog().services["legacy.service.consul"].endpoints
    assert (endpoint.address, endpoint.port, endpoint.workload) == (
        "127.0.0.1",
        8080,
        "joined/legacy-1",
    )
    assert endpoint.service_account == "legacy-sa"
    async with mesh.stream("joined/legacy-1", token=OWN) as stream:
        [leaf] = certificates((await stream.secrets("default"))["default"])
    assert identity_in(leaf) == ["spiffe://cluster.local/ns/default/sa/legacy-sa"]

    assert (await mesh.ask("POST", "/mesh/tokens/revoke", token="joined/legacy-1"))[
        0
    ] == 200
    await eventually(
        lambda: "joined/legacy-1" not in mesh.plane.catalog().workloads, 10
    )
    assert not await mesh.agent.read("agent/services")


async def test_an_expired_join_token_is_worthless(mesh: Running) -> None:
    made = (await mesh.ask("POST", "/mesh/tokens", service="late", ttl_seconds=1))[1]
    await eventually(lambda: _has(mesh, made["id"]), 10)
    await asyncio.sleep(1.1)
    assert (await mesh.ask("POST", "/mesh/join", made["token"], **JOIN))[0] == 401


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"address": "169.254.169.254"}, 409),
        ({"address": "example.com"}, 409),
        ({"address": ""}, 409),
        ({"ports": {}}, 409),
        ({"ports": {"0": "http"}}, 409),
        ({"ports": {"80": "gopher"}}, 409),
        ({"token_sha256": "../../x"}, 409),
    ],
)
async def test_what_makes_no_sense_cannot_join_and_leaves_the_token_good(
    mesh: Running, change: dict[str, Any], code: int
) -> None:
    made = (await mesh.ask("POST", "/mesh/tokens", service="strange"))[1]
    await eventually(lambda: _has(mesh, made["id"]), 10)
    assert (await mesh.ask("POST", "/mesh/join", made["token"], **{**JOIN, **change}))[
        0
    ] == code
    assert _has(mesh, made["id"])
    assert not any(
        name.startswith("joined/strange") for name in mesh.plane.catalog().workloads
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"service": ""},
        {"service": "a/b"},
        {"service": "a", "account": "../x"},
        {"service": "a", "ttl_seconds": 9**9},
    ],
)
async def test_no_token_is_made_for_what_is_no_identity(
    mesh: Running, asked: dict[str, Any]
) -> None:
    assert (await mesh.ask("POST", "/mesh/tokens", **asked))[0] == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/mesh/tokens"),
        ("POST", "/mesh/tokens"),
        ("POST", "/mesh/tokens/revoke"),
    ],
)
async def test_without_the_api_token_nothing_is_listed_made_or_revoked(
    mesh: Running, method: str, path: str
) -> None:
    assert (await mesh.ask(method, path, "wrong", service="x"))[0] == 401


async def test_who_guesses_is_stopped_and_who_has_a_token_is_not(
    mesh: Running, tmp_path: Path
) -> None:
    async def guess() -> int:
        return int((await mesh.ask("POST", "/mesh/join", "a guess", **JOIN))[0])

    async def is_stopped() -> bool:
        return await guess() == 429

    assert await guess() == 401
    await eventually(is_stopped, 30)
    # Behind a published port the operator and who guesses have one address.
    assert (await mesh.ask("GET", "/mesh/ca"))[0] == 200
    made = (await mesh.ask("POST", "/mesh/tokens", service="vm"))[1]
    await eventually(lambda: _has(mesh, made["id"]), 10)
    wanted = {**JOIN, "token_sha256": "1" * 64, "ports": {"8081": "http"}}
    assert (await mesh.ask("POST", "/mesh/join", made["token"], **wanted))[0] == 201


@pytest.mark.parametrize("port", ["api", "debug"])
@pytest.mark.parametrize("path", ["/api", "/debug/syncz", "/mesh/ca", "/mesh/join"])
async def test_a_token_that_is_no_text_is_a_wrong_token(
    mesh: Running, port: str, path: str
) -> None:
    host, _, number = getattr(mesh.settings, port).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    method = b"POST" if path == "/mesh/join" else b"GET"
    body = json.dumps(JOIN).encode()
    writer.write(
        b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n"
        b"Authorization: Bearer \xff\xfe\r\n\r\n%b"
        % (method, path.encode(), len(body), body)
    )
    status_line = await reader.readline()
    writer.close()
    assert status_line.split()[1] in {b"401", b"429"}


async def test_no_body_is_waited_for_from_who_has_no_token(mesh: Running) -> None:
    host, _, number = mesh.settings.api.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(
        b"POST /mesh/join HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n"
        b"Authorization: Bearer a-guess\r\n\r\n"
    )
    async with asyncio.timeout(5 * SLACK):
        status_line = await reader.readline()
    writer.close()
    assert status_line.split()[1] in {b"401", b"429"}


def _has(mesh: Running, identifier: str) -> bool:
    return any(item["id"] == identifier for item in mesh.plane.tokens.listing())
