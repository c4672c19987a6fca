"""Envoy's admin of a workload's proxy, by an exec in its pod.

The admin is a unix socket in a volume that pod and proxy share, so neither the app nor the network
reaches it; who may exec in containers does. Perl speaks to the socket: `perl-base` is in every
Debian and Ubuntu image, unlike curl or nc.

Invariant: an answer is whole or an error; nothing is cut off, however large it is.
"""

from __future__ import annotations

import http.client
import io
from dataclasses import dataclass

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.model.contract import ADMIN_SOCKET, PROXY_UID

TIMEOUT_S = 60
# The alarm ends it where the proxy hangs: the engine has no call that ends an exec. HTTP/1.1 for
# its chunks, which tell a whole answer from one that broke off.
_ASK = r"""
alarm shift;
my $admin = IO::Socket::UNIX->new(Peer => shift) or die "$!\n";
my $head = "$ARGV[0] $ARGV[1] HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n";
print $admin "${head}Connection: close\r\n\r\n";
$admin->flush;
my $part;
while (sysread $admin, $part, 1 << 16) { print $part }
"""


@dataclass(frozen=True, slots=True)
class ProxyAdmin:
    """The admin of the proxy whose pod is this container."""

    engine: LocalEngine
    pod: str

    def get(self, path: str) -> bytes:
        """GET of an admin page, `/config_dump` for example.

        Raises EngineError if the proxy does not answer, or answers with an error.
        """
        return self._ask("GET", path)

    def post(self, path: str) -> bytes:
        """POST to an admin page that changes something, `/logging?level=debug` for example; errors
        as with `get`.
        """
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> bytes:
        command = [
            "perl",
            "-MIO::Socket::UNIX",
            "-e",
            _ASK,
            str(TIMEOUT_S),
            ADMIN_SOCKET,
            method,
            path,
        ]
        # The socket is the proxy user's alone, and root in a pod lacks the capability to pass
        # over that.
        code, answer, problem = self.engine.execute(
            self.pod, command, user=str(PROXY_UID)
        )

        if code:
            reason = problem.decode("utf-8", "replace").strip() or f"exit code {code}"
            raise EngineError(
                f"the proxy's admin does not answer: {reason}",
                where=self.pod,
                fix=f"see whether the proxy runs: `docker ps -f name={self.pod}`, `dockermesh ps`",
            )

        return body_of(answer, f"{method} {path} of {self.pod}")


def body_of(answer: bytes, where: str) -> bytes:
    """The body of an HTTP/1.1 response. Raises EngineError if it is an error or incomplete."""
    response = http.client.HTTPResponse(_Received(answer))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, OSError) as error:
        raise EngineError(
            f"the proxy's answer cannot be read: {error!r}", where=where
        ) from error

    if response.status != 200:
        text = body.decode("utf-8", "replace").strip()[:200]
        raise EngineError(f"the proxy answered {response.status}: {text}", where=where)

    return body


class _Received:
    """What `HTTPResponse` wants a socket for."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._answer)
