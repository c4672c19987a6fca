"""A file is replaced in one step, and a private one was never anything else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dockermesh.runtime.files import FOR_ALL, PRIVATE, replace_file


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_the_old_content_gives_way_to_the_new_and_nothing_else_is_left(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.json"
    replace_file(file, b"old")
    replace_file(file, b"new", is_durable=True)
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("mode", [PRIVATE, FOR_ALL])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(
    tmp_path: Path, mode: int
) -> None:
    before = os.umask(0o077 if mode == FOR_ALL else 0)
    try:
        replace_file(tmp_path / "a", b"", mode)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a") == mode


def test_a_reader_who_has_the_old_file_open_goes_on_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "a"
    replace_file(file, b"old")
    with file.open("rb") as reader:
        replace_file(file, b"new")
        assert reader.read() == b"old"


def test_what_cannot_be_written_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    replace_file(file, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"new", is_durable=True)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
