"""The CA over a real Consul: made once, shared by all control planes, rotated in steps, never
replaced by accident.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, certificates, control_plane, secrets_in, workload

from dockermesh.ca import AuthorityError, Phase, Step
from dockermesh.controlplane.trust.ca_keeper import OwnCa
from dockermesh.errors import RegistryError
from dockermesh.registry.consul.sealed_store import ConsulSealedStore
from dockermesh.runtime import files

pytestmark = pytest.mark.consul
KEY = "kv/dockermesh/ca"
OPEN: list[ConsulSealedStore] = []


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent() as found:
        yield found
        for store in OPEN:
            await store.close()
        OPEN.clear()


def passphrase(folder: Path) -> Path:
    file = folder / "passphrase"
    file.write_text("a passphrase for all control planes")
    file.chmod(0o600)
    return file


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def keeper(agent: Agent, folder: Path, secret: Path | None = None) -> OwnCa:
    OPEN.append(ConsulSealedStore(agent.settings))
    return OwnCa(folder, "mesh.test", OPEN[-1], secret)


async def stored(agent: Agent) -> str:
    return (await agent.client.kv.get("dockermesh/ca"))[1]["Value"].decode()


async def test_control_planes_that_start_together_share_one_root(
    agent: Agent, tmp_path: Path
) -> None:
    secret = passphrase(tmp_path)
    opened = await asyncio.gather(
        *(keeper(agent, tmp_path / str(n), secret).open() for n in range(3))
    )
    assert len({a.roots_pem for a in opened}) == 1
    assert {a.material.signer.id for a in opened} == {opened[0].material.signer.id}


async def test_neither_consul_nor_a_file_holds_the_key_in_the_open(
    agent: Agent, tmp_path: Path
) -> None:
    await keeper(agent, tmp_path).open()
    assert "PRIVATE" not in await stored(agent)
    for name in ("sealing.key", "sealed.json"):
        file = tmp_path / name
        assert file.stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE" not in file.read_bytes()


async def test_a_restart_finds_the_root_again(agent: Agent, tmp_path: Path) -> None:
    before = await keeper(agent, tmp_path).open()
    assert (await keeper(agent, tmp_path).open()).roots_pem == before.roots_pem


async def test_a_ca_that_cannot_be_opened_is_an_error_and_stays(
    agent: Agent, tmp_path: Path
) -> None:
    await keeper(agent, tmp_path / "one").open()
    before = await stored(agent)
    with pytest.raises(AuthorityError, match="cannot be read"):
        await keeper(agent, tmp_path / "two").open()
    (tmp_path / "one" / "sealing.key").unlink()
    with pytest.raises(AuthorityError, match="cannot be read"):
        await keeper(agent, tmp_path / "one").open()
    assert not (tmp_path / "one" / "sealing.key").exists(), (
        "a new key would hide that the old one is lost"
    )
    assert await stored(agent) == before


@pytest.mark.parametrize("damage", [b"", b"{", b'{"v": 1}'])
async def test_a_truncated_copy_is_an_error_and_stays(
    agent: Agent, tmp_path: Path, damage: bytes
) -> None:
    await keeper(agent, tmp_path).open()
    (tmp_path / "sealed.json").write_bytes(damage)
    with pytest.raises(AuthorityError, match="cannot be read"):
        await keeper(agent, tmp_path).open()
    assert (tmp_path / "sealed.json").read_bytes() == damage


async def test_what_consul_lost_or_took_back_is_restored(
    agent: Agent, tmp_path: Path
) -> None:
    first = keeper(agent, tmp_path)
    before = await first.open()
    old = await stored(agent)
    after = await first.step(Step.PREPARE)
    assert after.roots_pem == before.roots_pem
    await agent.client.kv.put("dockermesh/ca", old)
    assert (await keeper(agent, tmp_path).open()).roots_pem == after.roots_pem
    await agent.client.kv.delete("dockermesh/ca")
    assert (await keeper(agent, tmp_path).open()).roots_pem == after.roots_pem
    assert await stored(agent)


async def test_another_meshs_ca_is_refused(agent: Agent, tmp_path: Path) -> None:
    secret = passphrase(tmp_path)
    await keeper(agent, tmp_path / "one", secret).open()
    await agent.client.kv.delete("dockermesh/ca")
    await keeper(agent, tmp_path / "two", secret).open()
    with pytest.raises(AuthorityError, match="another mesh"):
        await keeper(agent, tmp_path / "one", secret).open()


async def test_a_folder_that_cannot_be_written_makes_no_ca(
    agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(AuthorityError, match="cannot be"):
        await keeper(agent, tmp_path / "file" / "ca").open()
    assert (await agent.client.kv.get("dockermesh/ca"))[1] is None


async def test_a_step_of_one_control_plane_reaches_the_others(
    agent: Agent, tmp_path: Path
) -> None:
    secret = passphrase(tmp_path)
    one, two = (
        keeper(agent, tmp_path / "1", secret),
        keeper(agent, tmp_path / "2", secret),
    )
    await one.open()
    authority = await two.open()
    following = asyncio.create_task(two.follow())
    for step, phase in zip(
        Step, (Phase.PREPARED, Phase.SWITCHED, Phase.STABLE), strict=True
    ):
        after = await one.step(step)
        await eventually(
            lambda after=after: authority.material.generation == after.generation, 10
        )
        assert authority.material.phase is phase
        assert authority.roots_pem == after.roots_pem
    await agent.put(KEY, "rubbish")
    await eventually(lambda: two.problem, 10)
    assert authority.roots_pem == after.roots_pem, "what is in force stays in force"
    following.cancel()


async def test_a_rotation_waits_for_every_proxy_and_replaces_every_certificate(
    agent: Agent, tmp_path: Path
) -> None:
    async with control_plane(tmp_path, agent) as mesh:
        await mesh.add(workload("shop/reviews-1"), workload("shop/away-1"))
        root = mesh.settings.trust_dir / "root.pem"
        first = root.read_bytes()
        async with mesh.stream("shop/reviews-1") as stream:
            await stream.secrets("default", "ROOTCA")
            assert (await mesh.ask("POST", "/mesh/ca/rotate", step="switch"))[
                0
            ] == 409, "not its turn"

            code, report = await mesh.ask("POST", "/mesh/ca/rotate", step="prepare")
            assert (code, report["taken"], report["phase"]) == (200, True, "prepared")
            assert len(root.read_bytes()) > len(first)
            assert root.read_bytes().startswith(first)
            _, report = await mesh.ask("POST", "/mesh/ca/rotate", step="switch")
            assert not report["taken"]
            assert report["blocked"]
            [bundle] = secrets_in(await stream.answer()).values()
            assert len(certificates(bundle)) == 2

            await eventually(lambda: _take(mesh, "switch"), 10)
            seen = {}
            while not {"default", "ROOTCA"} <= seen.keys():
                seen |= secrets_in(await stream.answer())
            [leaf] = certificates(seen["default"])
            leaf.verify_directly_issued_by(certificates(seen["ROOTCA"])[0])
            assert certificates(seen["ROOTCA"])[0] != certificates(bundle)[0]

            # A proxy that was given a certificate and is away may still show it.
            await asyncio.sleep(2)
            _, report = await mesh.ask("POST", "/mesh/ca/rotate", step="finish")
            assert not report["taken"]
            assert "shop/away-1" in " ".join(report["blocked"])
            _, report = await mesh.ask(
                "POST", "/mesh/ca/rotate", step="finish", force=True
            )
            assert (report["taken"], report["phase"]) == (True, "stable")
            [last] = secrets_in(await stream.answer()).values()
            assert certificates(last) == certificates(seen["ROOTCA"])[:1]
            leaf.verify_directly_issued_by(certificates(last)[0])
        assert first not in root.read_bytes()
        async with mesh.stream("shop/reviews-1") as stream:
            await stream.secrets("default")  # over TLS that the new root alone verifies


async def _take(mesh: Running, step: str) -> bool:
    _, report = await mesh.ask("POST", "/mesh/ca/rotate", step=step)
    return bool(report["taken"])


async def test_the_ca_is_shown_without_its_key_and_to_holders_of_the_token_only(
    agent: Agent, tmp_path: Path
) -> None:
    async with control_plane(tmp_path, agent, api_auth="none") as mesh:
        for path in ("/mesh/ca", "/mesh/ca/roots"):
            assert (await mesh.ask("GET", path, bearer="wrong"))[0] == 401
            code, report = await mesh.ask("GET", path)
            assert code == 200
            assert "PRIVATE" not in json.dumps(report)
        assert (
            await mesh.ask("POST", "/mesh/ca/rotate", bearer="wrong", step="prepare")
        )[0] == 401
        assert (await mesh.ask("GET", "/mesh/ca"))[1]["phase"] == "stable"


async def test_a_step_with_a_full_disk_is_not_taken_anywhere(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = keeper(agent, tmp_path)
    authority = await ca.open()
    before = await stored(agent), (tmp_path / "sealed.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(AuthorityError, match="No space left"):
            await ca.step(Step.PREPARE)
    assert authority.material.phase is Phase.STABLE
    assert before == (await stored(agent), (tmp_path / "sealed.json").read_bytes())
    assert names_in(tmp_path) == ["sealed.json", "sealing.key"]
    assert (await ca.step(Step.PREPARE)).phase is Phase.PREPARED


async def test_a_step_that_was_taken_is_no_error(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = keeper(agent, tmp_path)
    authority = await ca.open()
    write = ConsulSealedStore.write

    async def answer_lost(self: ConsulSealedStore, text: str, version: int) -> bool:
        await write(self, text, version)
        raise RegistryError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(ConsulSealedStore, "write", answer_lost)
        await ca.step(Step.PREPARE)
        patch.setattr(files, "_put", _refuse)
        await ca.step(Step.SWITCH)
    assert authority.material.phase is Phase.SWITCHED
    assert "cannot be saved" in ca.problem
    # The copy is brought up from the store as soon as it can be.
    await ca.step(Step.FINISH)
    await agent.client.kv.delete("dockermesh/ca")
    again = await keeper(agent, tmp_path).open()
    assert again.roots_pem == authority.roots_pem


async def test_a_step_of_another_control_plane_is_in_the_copy_too(
    agent: Agent, tmp_path: Path
) -> None:
    secret = passphrase(tmp_path)
    one, two = (keeper(agent, tmp_path / n, secret) for n in "12")
    await one.open()
    authority = await two.open()
    following = asyncio.create_task(two.follow())
    after = await one.step(Step.PREPARE)
    await eventually(lambda: authority.material.generation == after.generation, 10)
    following.cancel()
    await agent.client.kv.delete("dockermesh/ca")
    again = await keeper(agent, tmp_path / "2", secret).open()
    assert again.material.generation == after.generation


def _refuse(_draft: Path, _path: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
