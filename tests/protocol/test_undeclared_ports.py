"""A real Envoy leads a port that no service declares to an endpoint of the address dialled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from patience import SLACK
from ports import free_ports
from tls_rig import Proxy

from dockermesh.model import ENDPOINTS_DNS_PORT
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.sidecar.undeclared import (
    endpoints_cluster,
    endpoints_listener,
    endpoints_of,
    undeclared_chain,
)

pytestmark = [pytest.mark.binary, pytest.mark.asyncio]

HERE, THERE = "127.0.0.1", "127.0.0.2"
"""The virtual address, which the proxy listens at, and that of the service's endpoint."""
CLUSTER = "outbound|80||web.service.consul"


def bootstrap(admin: int, resolver: int, *ports: int) -> dict[str, Any]:
    chain = undeclared_chain()
    # It is for other addresses than those that a machine has.
    chain.ClearField("filter_chain_match")
    resources = {
        "listeners": [
            MessageToDict(endpoints_listener(endpoints_of(HERE, CLUSTER))),
            *(
                {
                    "name": f"dialled-{port}",
                    "address": MessageToDict(socket_address(HERE, port)),
                    "filterChains": [MessageToDict(chain)],
                }
                for port in ports
            ),
        ],
        "clusters": [
            MessageToDict(endpoints_cluster()),
            {
                "name": CLUSTER,
                "loadAssignment": {
                    "clusterName": CLUSTER,
                    "endpoints": [
                        {
                            "lbEndpoints": [
                                {
                                    "endpoint": {
                                        "address": MessageToDict(
                                            socket_address(THERE, 80)
                                        )
                                    }
                                }
                            ]
                        }
                    ],
                },
            },
        ],
    }
    # Two of these tests may run at once on one machine.
    text = json.dumps(resources).replace(str(ENDPOINTS_DNS_PORT), str(resolver))
    return {
        "admin": {"address": MessageToDict(socket_address(HERE, admin))},
        "staticResources": json.loads(text),
    }


async def dial(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HERE, port)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_it_is_answered_at_the_port_that_was_dialled_or_ends_at_once(
    tmp_path: Path,
) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % writer.get_extra_info("sockname")[1])
        await writer.drain()
        writer.close()

    admin, resolver, one, other, closed = free_ports(5)
    config = bootstrap(admin, resolver, one, other, closed)
    async with (
        await asyncio.start_server(greet, THERE, one),
        await asyncio.start_server(greet, THERE, other),
        Proxy(tmp_path / "proxy.json", config, [admin, one, other, closed]),
        asyncio.timeout(20 * SLACK),
    ):
        assert await dial(one) == str(one).encode()
        assert await dial(other) == str(other).encode()
        assert await dial(closed) == b""
