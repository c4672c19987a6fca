"""Other ways to the engine that the tests use: TCP, TLS and ssh, each by a server of the test's own
in front of its unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import until
from ports import free_port

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") or ""
INSTALL_SSHD = "no OpenSSH server -> run: apt-get install openssh-server"


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> Path:
    """A CA, and a certificate of it for both sides, as `ca.pem`, `cert.pem` and `key.pem`: plain
    ones, as an engine's often are.
    """
    folder.mkdir()
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=engine CA")
    _openssl(folder, "req", "-x509", *ec, *ca)
    _openssl(
        folder,
        "req",
        *ec,
        "-keyout",
        "key.pem",
        "-out",
        "cert.csr",
        "-subj",
        "/CN=engine",
    )
    (folder / "names").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    _openssl(
        folder, "x509", "-req", "-in", "cert.csr", *by, "-days", "2", "-out", "cert.pem"
    )
    return folder


@contextlib.contextmanager
def relay(target: str, certificates: Path | None = None) -> Iterator[int]:
    """A TCP port of the loopback that leads to a unix socket; with certificates by TLS, which both
    sides verify.
    """
    context = None
    if certificates:
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem"
        )
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    port, loop = free_port(), asyncio.new_event_loop()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while part := await source.read(1 << 16):
                sink.write(part)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_unix_connection(target)
        up = asyncio.create_task(carry(reader, forth))
        await carry(back, writer)
        writer.close()
        up.cancel()
        forth.close()

    loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", port, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield port
    asyncio.run_coroutine_threadsafe(_end_others(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class SshHost:
    """A machine that is reached as `ssh://engine-host`, by the ssh of `folder` on PATH."""

    folder: Path
    log: Path

    def connections(self) -> int:
        """How many were accepted."""
        return self.log.read_text().count("Accepted publickey")


@contextlib.contextmanager
def ssh_host(folder: Path, socket_path: str) -> Iterator[SshHost]:
    """An OpenSSH server whose `docker` talks to this socket; ssh with keys and config of its own."""
    folder.mkdir()
    for name in ("host", "user"):
        command = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            str(folder / name),
        ]
        subprocess.run(command, check=True)
    port, log = free_port(), folder / "log"
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
        f"PidFile none\nSetEnv DOCKER_HOST=unix://{socket_path} PATH={os.environ['PATH']}\n"
    )
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    (folder / "config").write_text(
        f"Host engine-host\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        "  StrictHostKeyChecking yes\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n'
    )
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines its unprivileged half
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config", "-E", log])
    try:
        until(lambda: log.is_file() and "listening" in log.read_text(), "sshd listens")
        yield SshHost(wrapper.parent, log)
    finally:
        server.terminate()
        server.wait()


def need_sshd() -> None:
    """Skip where there is no server of OpenSSH."""
    if not SSHD:
        pytest.skip(INSTALL_SSHD)
