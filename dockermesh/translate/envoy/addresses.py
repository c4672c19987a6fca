"""Addresses of listeners and endpoints."""

from __future__ import annotations

from envoy.config.core.v3 import address_pb2


def socket_address(address: str, port: int) -> address_pb2.Address:
    """A TCP address; a path of a Unix socket is taken as such."""
    # `@` begins a name in Linux's abstract namespace, which is in no folder.
    if address.startswith(("/", "@")):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=address))
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address=address, port_value=port)
    )


def loopback_udp(port: int) -> address_pb2.Address:
    """A UDP address on loopback."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(
            address="127.0.0.1", port_value=port, protocol=address_pb2.SocketAddress.UDP
        )
    )
