"""HTTP to an engine on another host, by the user's own `ssh`: its config, agent and known hosts
count, and its questions appear on the terminal.

As for the Docker CLI, `docker system dial-stdio` on that host is the way to the engine's socket.
Invariant: to everything above, the connection is a socket like any other, with time-outs, half
closes and a descriptor to wait for; it is kept for the next request.
"""

from __future__ import annotations

import atexit
import http.client
import shutil
import socket
import subprocess
import tempfile
from typing import IO, Any
from urllib.parse import urlsplit

import requests.adapters
import urllib3.connection
import urllib3.connectionpool

_CONNECT_TIMEOUT_S = 30
_running: list[subprocess.Popen[bytes]] = []


def ssh_command(url: str) -> list[str]:
    """What leads to the engine of `ssh://[USER@]HOST[:PORT][/SOCKET]`."""
    parts = urlsplit(url)
    user = ["-l", parts.username] if parts.username else []
    port = ["-p", str(parts.port)] if parts.port else []
    socket_path = parts.path.rstrip("/")
    engine = ["--host", f"unix://{socket_path}"] if socket_path else []
    # -T: a terminal on the way would change bytes of the stream.
    options = ["-o", f"ConnectTimeout={_CONNECT_TIMEOUT_S}", "-T", *user, *port]
    return [
        "ssh",
        *options,
        # Behind it, a host that begins with a dash is no option.
        "--",
        _host_of(url),
        "docker",
        *engine,
        "system",
        "dial-stdio",
    ]


def _host_of(url: str) -> str:
    # As it was written: names in ~/.ssh/config may have capitals, which urlsplit would lower.
    host = urlsplit(url).netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class SshAdapter(requests.adapters.HTTPAdapter):
    """The requests of one SDK client, over connections that ssh carries."""

    def __init__(self, url: str, timeout: float) -> None:
        self._pool = _Pool(ssh_command(url), timeout)
        super().__init__()

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> Any:
        """The pool of connections, which all requests share."""
        return self._pool

    # What `requests` before 2.32 calls it.
    get_connection = get_connection_with_tls_context

    def request_url(self, request: Any, proxies: Any) -> str:
        """The path alone, as there is no proxy."""
        return str(request.path_url)

    def close(self) -> None:
        """Close the connections that no answer is read from."""
        self._pool.close()
        super().close()


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, command: list[str], timeout: float) -> None:
        super().__init__("localhost", timeout=timeout, maxsize=4)
        self._command = command
        self._seconds = timeout

    def _new_conn(self) -> Any:
        return _Connection(self._command, self._seconds)


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, command: list[str], timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._command = command
        # A file, not a pipe: nobody reads along, and a full pipe would stop ssh.
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def connect(self) -> None:
        if shutil.which("ssh") is None:
            raise OSError("the command ssh was not found; install OpenSSH's client")
        near, far = socket.socketpair()
        near.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
        # ssh has its copy then; ours must go, or its end would never be seen here.
        with far:
            _start(self._command, far, self._messages)
        self.sock = near

    def getresponse(self) -> Any:
        try:
            return super().getresponse()
        except (http.client.BadStatusLine, ConnectionError) as error:
            # Why it ended (a host key, a refused login) ssh tells on stderr alone.
            self._messages.seek(0)
            said = self._messages.read().decode("utf-8", "replace").strip()
            told = said or "it ended without an answer; is Docker installed there?"
            raise OSError(f"ssh: {told}") from error


def _start(command: list[str], end: socket.socket, messages: IO[bytes]) -> None:
    """Start ssh, which ends with its socket. Not closed by us with the connection, since a stream
    is read on after http.client has closed what it came from.
    """
    _running[:] = [process for process in _running if process.poll() is None]
    _running.append(
        subprocess.Popen(
            command, stdin=end.fileno(), stdout=end.fileno(), stderr=messages
        )
    )


@atexit.register
def _end_all() -> None:
    for process in _running:
        process.terminate()
