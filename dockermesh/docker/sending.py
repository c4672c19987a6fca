"""One plain HTTP request from inside a pod's network, as its app would send it: captured, and
resolved by its DNS.

It is sent by an exec in the pod, as an unprivileged user other than the proxy's, whose traffic is
not captured.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError

_NOBODY = "65534"
# Only the head is looked at, so a body that never ends is cut off at 1 MiB; the alarm ends what
# gets no answer, as an exec cannot be ended from outside.
_SEND = r"""
alarm shift;
my ($host, $port, $request) = @ARGV;
my $peer = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port, Proto => "tcp")
    or die "$@\n";
print $peer $request;
$peer->flush;
my ($part, $sum) = ("", 0);
while ($sum < 1 << 20 and my $got = sysread $peer, $part, 1 << 16) { print $part; $sum += $got }
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's head, and how long it took, in seconds."""

    status: int
    headers: Mapping[str, str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends from the network of this pod."""

    engine: LocalEngine
    pod: str
    timeout_s: int = 60

    def send(
        self, host: str, port: int, method: str, path: str, headers: Mapping[str, str]
    ) -> Answer:
        """Send the request and read the answer's head.

        Raises EngineError if nothing answers, or no HTTP comes back.
        """
        head = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        # The request is sent as text: a line break in a value would begin a header of its own.
        if any("\n" in line or "\r" in line for line in head):
            raise EngineError(
                "a header may not have several lines", fix="give each header its own -H"
            )

        request = "\r\n".join([*head, "Connection: close", "", ""])
        command = [
            "perl",
            "-MIO::Socket::INET",
            "-e",
            _SEND,
            str(self.timeout_s),
            host,
            str(port),
            request,
        ]
        began = time.monotonic()
        code, output, problem = self.engine.execute(self.pod, command, user=_NOBODY)
        seconds = time.monotonic() - began

        if code:
            reason = (
                problem.decode("utf-8", "replace").strip()
                or f"no answer within {self.timeout_s} s"
            )
            raise EngineError(
                f"the request could not be sent: {reason}", where=f"{host}:{port}"
            )

        return read_answer(output, seconds, f"{host}:{port}")


def read_answer(output: bytes, seconds: float, where: str) -> Answer:
    """The head of an HTTP/1.1 answer. Raises EngineError if it is none."""
    line, _, rest = output.partition(b"\r\n")
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        raise EngineError(
            "the answer is not HTTP; the connection was taken, and then closed",
            where=where,
        )
    headers = http.client.parse_headers(io.BytesIO(rest))
    return Answer(int(parts[1]), {k.lower(): v for k, v in headers.items()}, seconds)
