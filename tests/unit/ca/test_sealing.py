"""The CA at rest: unreadable without its key, never taken for absent, and never open to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockermesh.ca import AuthorityError, open_seal

SECRET = b"-----BEGIN PRIVATE KEY-----"


def test_what_is_sealed_can_be_opened_again_and_not_be_read(tmp_path: Path) -> None:
    sealed = open_seal(None, tmp_path / "key", may_create=True).close(SECRET)
    assert "PRIVATE" not in sealed
    assert (
        open_seal(None, tmp_path / "key", may_create=False).open(sealed, "here")
        == SECRET
    )
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_control_planes_with_one_passphrase_open_each_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("a passphrase of some length\n")
        (tmp_path / name).chmod(0o600)
    sealed = open_seal(tmp_path / "a", tmp_path / "none", may_create=True).close(SECRET)
    assert (
        open_seal(tmp_path / "b", tmp_path / "none", may_create=True).open(
            sealed, "here"
        )
        == SECRET
    )
    assert not (tmp_path / "none").exists()


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    sealed = open_seal(None, tmp_path / "a", may_create=True).close(SECRET)
    with pytest.raises(AuthorityError, match="another key"):
        open_seal(None, tmp_path / "b", may_create=True).open(sealed, "here")


@pytest.mark.parametrize("part", ["salt", "nonce", "data"])
def test_what_was_changed_is_refused(tmp_path: Path, part: str) -> None:
    seal = open_seal(None, tmp_path / "key", may_create=True)
    sealed = json.loads(seal.close(SECRET))
    if part == "salt":
        del sealed[part]
    else:
        sealed[part] = ("A" if sealed[part][0] != "A" else "B") + sealed[part][1:]
    with pytest.raises(AuthorityError, match="cannot be read"):
        seal.open(json.dumps(sealed), "here")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", '{"salt": 1, "nonce": 2, "data": 3}']
)
def test_what_is_nothing_sealed_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AuthorityError, match="cannot be read"):
        open_seal(None, tmp_path / "key", may_create=True).open(text, "here")


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_truncated_key_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(AuthorityError, match="damaged"):
        open_seal(None, tmp_path / "key", may_create=True)
    assert (tmp_path / "key").read_text() == content


def test_a_key_that_others_can_read_is_closed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_seal(None, tmp_path / "key", may_create=True)
    (tmp_path / "key").chmod(0o644)
    open_seal(None, tmp_path / "key", may_create=False)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert "readable for others" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        (0o644, "a passphrase of some length", "readable for others"),
        (0o600, "short", "shorter than"),
    ],
)
def test_a_careless_passphrase_is_refused(
    tmp_path: Path, mode: int, text: str, reason: str
) -> None:
    (tmp_path / "pass").write_text(text)
    (tmp_path / "pass").chmod(mode)
    with pytest.raises(AuthorityError, match=reason):
        open_seal(tmp_path / "pass", tmp_path / "key", may_create=True)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(AuthorityError, match="cannot be saved"):
        open_seal(None, Path("/proc/nowhere/key"), may_create=True)
