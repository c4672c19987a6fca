"""The name server of a namespace, on plain sockets: questions that came before it served."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from patience import SLACK

from dockermesh.nodeagent.resolver import NameServer, NameSockets

NOT_READABLE = b"\x12\x34\x80\x00" + bytes(8)
"""For Docker's server, as all is that is no question."""


async def test_what_waited_for_the_name_server_is_passed_on_to_dockers() -> None:
    with ExitStack() as stack:
        udp, table, dockers, theirs, client = (
            stack.enter_context(_bound(socket.SOCK_DGRAM)) for _ in range(5)
        )
        tcp = stack.enter_context(_bound(socket.SOCK_STREAM))
        tcp.listen()
        table.connect(client.getsockname())
        dockers.connect(theirs.getsockname())
        client.sendto(NOT_READABLE, udp.getsockname())

        server = NameServer("")
        await server.serve(NameSockets(udp, tcp, table, dockers))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(1 * SLACK):
            asked, _ = await loop.sock_recvfrom(theirs, 512)
        server.close()
        # What is closed is so with the next turn of the loop.
        await asyncio.sleep(0)
    assert asked[2:] == NOT_READABLE[2:]


def _bound(kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    made.bind(("127.0.0.1", 0))
    return made
