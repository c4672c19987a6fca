"""Settings that would open a hole are refused before anything listens."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dockermesh.controlplane.backends import choose_backend
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.controlplane.trust.state_files import open_token, publish_roots
from dockermesh.errors import UsageError


@pytest.mark.parametrize(
    "address", ["127.0.0.1:15010", "localhost:15010", "[::1]:15010", ""]
)
def test_plaintext_xds_may_be_on_loopback(address: str) -> None:
    assert ControlPlaneSettings(xds_plaintext=address).xds_plaintext == address


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:15010",
        "[::]:15010",
        ":15010",
        "15010",
        "172.28.0.2:15010",
        "example.com:1",
    ],
)
def test_plaintext_xds_may_be_nowhere_else(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        ControlPlaneSettings(xds_plaintext=address)
    assert "15012" in refused.value.fix


def test_plaintext_is_off_by_default_and_other_ports_are_on_loopback() -> None:
    settings = ControlPlaneSettings()
    assert settings.xds_plaintext == ""
    assert settings.api.startswith("127.0.0.1:")
    assert settings.debug.startswith("127.0.0.1:")


def test_an_unknown_registry_is_refused() -> None:
    with pytest.raises(UsageError, match="etcd"):
        choose_backend(ControlPlaneSettings(registry="etcd"))


def test_the_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "state" / "api.token"
    token = open_token(file)
    assert len(token) >= 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert open_token(file) == token
    assert open_token(tmp_path / "other") != token


def test_the_root_is_readable_for_pods_and_replaced_in_one_step(tmp_path: Path) -> None:
    publish_roots(tmp_path, b"one")
    file = tmp_path / "root.pem"
    before = file.stat().st_mtime_ns
    publish_roots(tmp_path, b"one")
    assert file.stat().st_mtime_ns == before, "an unchanged root is not written"
    publish_roots(tmp_path, b"two")
    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [f.name for f in tmp_path.iterdir()] == ["root.pem"]
