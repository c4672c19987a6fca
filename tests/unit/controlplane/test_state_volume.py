"""A disk that takes nothing more is told without anybody having something to write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dockermesh.controlplane.state_volume import StateVolume


def test_a_folder_that_takes_files_is_no_problem_and_keeps_nothing(
    tmp_path: Path,
) -> None:
    volume = StateVolume(tmp_path / "state")
    volume.look()
    assert not volume.problem
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_why_it_takes_nothing_is_told_until_it_does_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    volume = StateVolume(tmp_path)

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        volume.look()
    assert os.strerror(number) in volume.problem and str(tmp_path) in volume.problem
    volume.look()
    assert not volume.problem
