"""The mesh network's DNS: every name has the addresses that it was given, as Docker's has for an
alias that several containers share.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_A = 1


class Names:
    """A DNS server for IPv4 addresses, in a thread, so that nobody waits for who is busy; names
    that it does not know have none.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def start(self, host: str) -> None:
        """Listen on the host's port 53."""
        self._socket.bind((host, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """No more answers."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, address = self._socket.recvfrom(4096)
                if len(data) > 12:
                    self._socket.sendto(self._answer(data), address)

    def _answer(self, data: bytes) -> bytes:
        end = data.index(b"\0", 12)
        labels, at = [], 12
        while at < end:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        kind = struct.unpack_from("!H", data, end + 1)[0]
        found = self.addresses.get(".".join(labels).lower(), [])
        listed = found if kind == _A else []
        code = 0x8180 if found else 0x8183
        head = data[:2] + struct.pack("!HHHHH", code, 1, len(listed), 0, 0)
        answers = b"".join(
            struct.pack("!HHHIH", 0xC00C, _A, 1, 1, 4)
            + bytes(int(part) for part in address.split("."))
            for address in listed
        )
        return head + data[12 : end + 5] + answers
