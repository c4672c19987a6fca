"""The command line's way to the control plane of an engine, wherever that engine is.

A published port is used only after it has proven, by TLS and the mesh root that was read through
the engine, that it is this control plane: on this machine's loopback may be somebody else's. What
cannot be reached like that is reached by an exec in the control plane's container. Invariant: a
token leaves over verified TLS or through the engine only.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.exec_stream import connect_inside
from dockermesh.errors import EngineError, NotReadyError
from dockermesh.model.contract import (
    API_PORT,
    API_TOKEN_FILE,
    CONTROL_PLANE_CONTAINER,
    STATE_PATH,
    TRUST_PATH,
)
from dockermesh.model.hosts import bracketed

TOKEN_FILE = f"{STATE_PATH}/{API_TOKEN_FILE}"
ROOT_FILE = f"{TRUST_PATH}/root.pem"
SEE_LOGS = f"see `docker logs {CONTROL_PLANE_CONTAINER}`"
SERVER_NAME = "localhost"
"""The name in the API's certificate: its address differs from host to host."""
_PROOF_S = 1.0
_UP = "run `dockermesh up`, or name another control plane in DOCKERMESH_API"
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_REPEATABLE = {"GET", "PUT", "PATCH", "DELETE"}

Dial = Callable[[], socket.socket]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the control plane keeps for its clients; empty while it has not written them yet."""

    token: str = ""
    root_pem: str = ""


class Route:
    """The way to the control plane that runs on an engine. Raises NotReadyError if none runs."""

    def __init__(self, engine: LocalEngine) -> None:
        found = engine.inspect(CONTROL_PLANE_CONTAINER)
        if found is None or not found["State"]["Running"]:
            raise NotReadyError(
                "the mesh is not running",
                where=f"{CONTROL_PLANE_CONTAINER} on {engine.url}",
                fix=_UP,
            )

        if found["State"].get("Paused") or found["State"].get("Restarting"):
            state = found["State"]["Status"]
            raise NotReadyError(
                f"the control plane is {state}",
                where=f"{CONTROL_PLANE_CONTAINER} on {engine.url}",
                fix=f"{SEE_LOGS}; `docker unpause` if somebody paused it",
            )

        self._engine = engine
        self._ports: Mapping[str, list[dict[str, str]] | None] = (
            found["NetworkSettings"]["Ports"] or {}
        )
        self._credentials = Credentials()

    @property
    def where(self) -> str:
        """The control plane, for messages."""
        return f"{CONTROL_PLANE_CONTAINER} on {self._engine.url}"

    def credentials(self) -> Credentials:
        """Token and roots, read in the container. Raises EngineError if the engine fails."""
        # Asked again until both are there: a control plane that has just started has written
        # neither.
        if not self._credentials.token or not self._credentials.root_pem:
            files = self._engine.read_files(
                CONTROL_PLANE_CONTAINER, (TOKEN_FILE, ROOT_FILE)
            )
            token, root = (files[path] or b"" for path in (TOKEN_FILE, ROOT_FILE))
            self._credentials = Credentials(token.decode().strip(), root.decode())
        return self._credentials

    def url(self, port: int = API_PORT) -> str:
        """The published address of a port if it leads to this control plane from here, else
        empty.
        """
        proven = self._proven(port)
        if proven is None:
            return ""
        host, number = proven.getpeername()[:2]
        proven.close()
        return f"https://{bracketed(host)}:{number}"

    def dial(self, port: int) -> socket.socket:
        """A connection that HTTP with the token may go over: TLS, or through the engine.

        Raises OSError if the control plane does not listen, EngineError if the engine fails.
        """
        return self._proven(port) or connect_inside(
            self._engine, CONTROL_PLANE_CONTAINER, port
        )

    def dial_plainly(self, port: int) -> socket.socket:
        """A connection as somebody on the control plane's own host has it, for a client that speaks
        TLS itself.
        """
        proven = self._proven(port)
        if proven is None:
            return connect_inside(self._engine, CONTROL_PLANE_CONTAINER, port)
        # The proof used up its connection: the client's own handshake needs a fresh one.
        address = proven.getpeername()
        proven.close()
        return socket.create_connection(address[:2])

    def _proven(self, port: int) -> socket.socket | None:
        """TLS with the control plane on its published port; None if that is not reached from
        here.
        """
        bindings = self._ports.get(f"{port}/tcp")
        roots = self.credentials().root_pem if bindings else ""
        if not bindings or not roots:
            return None

        context = ssl.create_default_context(cadata=roots)
        with contextlib.ExitStack() as undo:
            try:
                connection = undo.enter_context(
                    socket.create_connection(_address(bindings[0]), timeout=_PROOF_S)
                )
                proven = context.wrap_socket(connection, server_hostname=SERVER_NAME)
            except (
                OSError
            ):  # refused, silent, or somebody else: ssl's errors are OSErrors
                return None

            # TLS owns the socket now; leaving the block must not close it.
            undo.pop_all()

        proven.settimeout(None)
        return proven


def _address(binding: Mapping[str, str]) -> tuple[str, int]:
    host = binding.get("HostIp") or ""
    return _WILDCARDS.get(host, host), int(binding["HostPort"])


class Channel:
    """HTTP over one connection that is kept for the next request, and made anew when it has
    ended.
    """

    def __init__(self, dial: Dial) -> None:
        self._connection = _Connection(dial)

    def request(
        self,
        method: str,
        target: str,
        body: str | bytes | None,
        headers: Mapping[str, str],
        *,
        timeout: float,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of the answer. `timeout` is in seconds, for each wait.

        Raises OSError if none comes.
        """
        connection = self._connection
        if method not in _REPEATABLE:
            # Nobody can tell whether a server that ended the connection had done it already.
            connection.close()

        was_open = connection.sock is not None
        connection.wait(timeout)

        try:
            return self._ask(method, target, body, headers)
        except ConnectionError:
            if not was_open:
                raise
            # The server ends idle connections, which is its right.
            return self._ask(method, target, body, headers)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _ask(
        self,
        method: str,
        target: str,
        body: str | bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            self._connection.request(method, target, body, dict(headers))
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except http.client.HTTPException as error:
            self._connection.close()
            raise ConnectionError(str(error) or type(error).__name__) from error
        except (OSError, EngineError):
            self._connection.close()
            raise


class _Connection(http.client.HTTPConnection):
    def __init__(self, dial: Dial) -> None:
        super().__init__(SERVER_NAME)
        self._dial = dial
        self._wait = 10.0

    def wait(self, timeout: float) -> None:
        self._wait = timeout
        if self.sock is not None:
            self.sock.settimeout(timeout)

    def connect(self) -> None:
        self.sock = self._dial()
        self.sock.settimeout(self._wait)
