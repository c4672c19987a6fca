"""`dockermesh ca` and `dockermesh token` as a user runs them, against a real control plane over
TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, workload
from cryptography import x509

pytestmark = [pytest.mark.consul, pytest.mark.asyncio(loop_scope="module")]
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with (
        Agent() as agent,
        control_plane(tmp_path_factory.mktemp("mesh"), agent) as running,
    ):
        yield running


@pytest.fixture
def run(mesh: Running) -> Run:
    root = mesh.settings.trust_dir / "root.pem"
    named = {
        "DOCKERMESH_API": f"https://{mesh.settings.api}",
        "DOCKERMESH_TOKEN": mesh.token,
        "DOCKERMESH_CA": str(root),
    }

    async def command(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dockermesh", *arguments),
            env={**os.environ, **named},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    return command


async def test_all_steps_of_a_rotation_are_taken_with_one_command(
    mesh: Running, run: Run
) -> None:
    code, before, _ = await run("ca", "export")
    assert code == 0
    code, _, told = await run("ca", "rotate")
    assert code == 0, told
    assert [line.partition(":")[0] for line in told.splitlines() if "done" in line] == [
        "prepare",
        "switch",
        "finish",
    ]
    code, after, _ = await run("ca", "export")
    assert code == 0
    assert len(x509.load_pem_x509_certificates(after.encode())) == 1
    assert after != before
    code, text, _ = await run("ca", "status")
    assert code == 0
    assert "stable" in text
    assert "signs" in text


async def test_a_step_out_of_turn_is_refused_with_the_right_one(
    mesh: Running, run: Run
) -> None:
    code, _, told = await run("ca", "rotate", "--step", "finish")
    assert code == 1
    assert "prepare" in told
    code, text, _ = await run("ca", "status", "-o", "json")
    assert (code, json.loads(text)["phase"]) == (0, "stable")


async def test_tokens_are_made_listed_and_revoked(mesh: Running, run: Run) -> None:
    await mesh.add(workload("shop/reviews-1"))
    code, token, told = await run(
        "token", "create", "--service", "legacy", "--ttl", "10m"
    )
    assert code == 0, told
    assert len(token.strip()) >= 40
    assert token.strip() not in told
    await eventually(
        lambda: any(item["kind"] == "join" for item in mesh.plane.tokens.listing()), 10
    )
    code, table, _ = await run("token", "list")
    assert code == 0
    assert "joined/legacy" in table
    assert token.strip() not in table
    code, _, told = await run("token", "revoke", "shop/reviews-1")
    assert (code, told.strip()) == (0, "revoked: shop/reviews-1")
    code, _, told = await run("token", "revoke", "shop/nobody-1")
    assert code == 1
    assert "no token" in told


async def test_what_cannot_be_made_is_said(
    mesh: Running, run: Run, tmp_path: Path
) -> None:
    code, _, told = await run("token", "create", "--service", "a/b")
    assert code == 1
    assert "name" in told
    missing = str(tmp_path / "none")
    join = (
        "join",
        "--service",
        "a",
        "--xds",
        "127.0.0.1:1",
        "--token-file",
        missing,
        "--dir",
        str(tmp_path),
    )
    code, _, told = await run(*join, "--port", "80")
    assert code == 1
    assert missing in told
    code, _, told = await run(*join, "--port", "x")
    assert code == 2
