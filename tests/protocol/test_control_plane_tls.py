"""The control plane's ports take TLS 1.2 and 1.3 with forward secrecy and authenticated encryption,
nothing older.
"""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from bridge_rig import Agent
from control_plane_rig import Running, control_plane

pytestmark = [pytest.mark.consul, pytest.mark.asyncio(loop_scope="module")]
V = ssl.TLSVersion


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with (
        Agent() as agent,
        control_plane(tmp_path_factory.mktemp("mesh"), agent) as running,
    ):
        yield running


async def handshake(
    mesh: Running, port: str, version: ssl.TLSVersion, ciphers: str = "ALL"
) -> str:
    """The cipher that was agreed on; empty if there is none."""
    context = ssl.create_default_context(
        cafile=str(mesh.settings.trust_dir / "root.pem")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = mesh.settings.xds if port == "xds" else mesh.settings.api
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1",
            int(address.rpartition(":")[2]),
            ssl=context,
            server_hostname="control-plane.dockermesh",
        )
    except (ssl.SSLError, ConnectionError):
        return ""
    cipher = writer.get_extra_info("cipher")[0]
    writer.close()
    return str(cipher)


@pytest.mark.parametrize("port", ["xds", "api"])
@pytest.mark.parametrize("version", [V.TLSv1, V.TLSv1_1])
async def test_old_versions_are_refused(
    mesh: Running, port: str, version: ssl.TLSVersion
) -> None:
    assert not await handshake(mesh, port, version)


@pytest.mark.parametrize("port", ["xds", "api"])
@pytest.mark.parametrize("version", [V.TLSv1_2, V.TLSv1_3])
async def test_present_versions_are_taken(
    mesh: Running, port: str, version: ssl.TLSVersion
) -> None:
    cipher = await handshake(mesh, port, version)
    assert "GCM" in cipher or "CHACHA20" in cipher


@pytest.mark.parametrize("port", ["xds", "api"])
@pytest.mark.parametrize(
    "ciphers",
    [
        "AES128-SHA",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "AES256-GCM-SHA384",
    ],
)
async def test_ciphers_without_authentication_or_forward_secrecy_are_refused(
    mesh: Running, port: str, ciphers: str
) -> None:
    assert not await handshake(mesh, port, V.TLSv1_2, ciphers)


async def test_a_stranger_gets_no_certificate_that_the_system_trusts(
    mesh: Running,
) -> None:
    context, port = (
        ssl.create_default_context(),
        int(mesh.settings.xds.rpartition(":")[2]),
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="control-plane.dockermesh"
        )


async def test_no_file_holds_a_key_in_the_open_and_none_but_the_roots_is_readable_for_others(
    mesh: Running,
) -> None:
    files = [*_files(mesh.settings.state_dir), *_files(mesh.settings.trust_dir)]
    assert {f.name for f in files} == {
        "api.token",
        "catalog.copy.json",
        "config.copy.json",
        "tokens.copy.json",
        "sealed.json",
        "sealing.key",
        "root.pem",
    }
    for file in files:
        assert b"PRIVATE KEY" not in file.read_bytes(), file
        assert file.name == "root.pem" or file.stat().st_mode & 0o077 == 0, file


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]
