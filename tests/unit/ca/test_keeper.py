"""Where the CA is kept without Consul: in a sealed file of its own, or in files of the user, which
may be replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from certified import Certified, write

from dockermesh.ca import AuthorityError, Step
from dockermesh.controlplane.trust import ca_keeper
from dockermesh.controlplane.trust.ca_keeper import OwnCa, PluggedCa
from dockermesh.errors import UsageError


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_without_consul_a_sealed_file_keeps_the_ca_through_restarts_and_steps(
    tmp_path: Path,
) -> None:
    first = OwnCa(tmp_path, "mesh.test", None)
    roots = [(await first.open()).roots_pem]
    for step in Step:
        roots.append((await first.step(step)).roots_pem)
        assert (await OwnCa(tmp_path, "mesh.test", None).open()).roots_pem == roots[-1]
    assert len(set(roots)) == 4
    assert b"PRIVATE" not in (tmp_path / "sealed.json").read_bytes()


async def test_a_lost_key_is_no_reason_for_a_new_ca(tmp_path: Path) -> None:
    await OwnCa(tmp_path, "mesh.test", None).open()
    (tmp_path / "sealing.key").unlink()
    with pytest.raises(AuthorityError, match="cannot be read"):
        await OwnCa(tmp_path, "mesh.test", None).open()


async def test_a_step_that_cannot_be_saved_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = OwnCa(tmp_path, "mesh.test", None)
    authority = await keeper.open()

    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ca_keeper, "write_private", full)
    with pytest.raises(AuthorityError, match="No space left"):
        await keeper.step(Step.PREPARE)
    assert authority.material.phase == "stable"
    assert authority.issue_server(["still.works"])


async def test_new_files_of_the_user_count_as_soon_as_they_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca_keeper, "_LOOK_S", 0.01)
    old, new = Certified("old"), Certified("new")
    write(tmp_path, old, [], [old])
    keeper = PluggedCa(tmp_path)
    authority = await keeper.open()
    before = authority.material.signer.id
    following = asyncio.create_task(keeper.follow())

    (tmp_path / "ca-cert.pem").write_bytes(new.pem)
    await eventually(lambda: "does not belong" in keeper.problem)
    assert authority.material.signer.id == before, "half of a change is none"
    write(tmp_path, new, [], [new, old])
    await eventually(lambda: authority.material.signer.id != before)
    assert authority.roots_pem == new.pem + old.pem
    await eventually(lambda: not keeper.problem)
    with pytest.raises(UsageError, match="is yours"):
        await keeper.step(Step.PREPARE)
    following.cancel()
