"""What is set in a workload's network namespace, so that its connections meet the node's proxy.

It is a table of its own, which nobody else writes to: it conflicts with neither Docker's chains nor
the app's, takes effect as a whole, and is gone with one command. Only IPv4 is captured: the mesh's
addresses are of it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from dockermesh.model import DNS_PORT, INBOUND_PORT, OUTBOUND_PORT
from dockermesh.model.contract import MESH_PROJECT, PROXY_UID
from dockermesh.nodeagent import nft
from dockermesh.nodeagent.nft import Chain, Hook

TABLE = MESH_PROJECT
_MARK = PROXY_UID
"""Of the proxy's connections to its app, which have the client's address, and of their answers,
which that address would else lead out of the namespace.
"""
_DOCKERS_DNS = bytes([127, 0, 0, 11])
_LOOPBACK = bytes([127])
_TCP, _UDP = (nft.is_protocol(n) for n in (socket.IPPROTO_TCP, socket.IPPROTO_UDP))
_BEFORE_DOCKERS_NAT, _MANGLE, _FILTER = -101, -150, 0


def capture(
    *,
    is_patient: bool = False,
    is_held: bool = False,
    detours: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Capture the connections of the namespace that this thread is in. `detours` has, by the
    address that the proxy calls a workload at, the one at which that is reached from here.

    While `is_held`, new ones wait for the proxy, which is not there yet. With `is_patient` they
    also do while it is away, instead of being refused. Raises OSError.
    """
    chains = [_outbound(detours), *_REST]
    chains += [_HOLD] if is_held else []
    chains += [_PATIENCE] if is_patient else []
    nft.replace_table(TABLE, chains)


def let_go() -> None:
    """Capture no new connections, and keep up those that were. Raises OSError."""
    outbound, inbound, *marks = (_OUTBOUND, *_REST)
    # Without any chain of this kind the kernel would no longer translate what it has translated.
    empty = (replace(chain, rules=()) for chain in (outbound, inbound))
    nft.replace_table(TABLE, (*empty, *marks))


def release() -> None:
    """Undo `capture` altogether. Raises OSError."""
    nft.delete_table(TABLE)


def _outbound(detours: Mapping[str, str]) -> Chain:
    led = (
        (
            *nft.is_ipv4(),
            *nft.is_of_user(PROXY_UID),
            *nft.goes_to(socket.inet_aton(address)),
            *nft.lead_to(socket.inet_aton(there)),
        )
        for address, there in sorted(detours.items())
    )
    return replace(_OUTBOUND, rules=(*led, *_OUTBOUND.rules))


_OUTBOUND = Chain(
    "out",
    "nat",
    Hook.OUTPUT,
    _BEFORE_DOCKERS_NAT,
    (
        (*nft.is_ipv4(negated=True), *nft.leave()),
        (*nft.has_mark(_MARK), *nft.leave()),
        # A service that calls itself: the proxy's connection to its own inbound side.
        (
            *nft.goes_out_by("lo"),
            *nft.is_of_user(PROXY_UID),
            *nft.goes_to(_LOOPBACK, negated=True),
            *_TCP,
            *nft.goes_to_port(INBOUND_PORT, negated=True),
            *nft.redirect(INBOUND_PORT),
        ),
        (*nft.is_of_user(PROXY_UID), *nft.leave()),
        *(
            (
                *nft.goes_to(_DOCKERS_DNS),
                *protocol,
                *nft.goes_to_port(53),
                *nft.redirect(DNS_PORT),
            )
            for protocol in (_UDP, _TCP)
        ),
        (*nft.goes_to(_LOOPBACK), *nft.leave()),
        (*_TCP, *nft.redirect(OUTBOUND_PORT)),
    ),
)
_REST = (
    Chain(
        "in",
        "nat",
        Hook.PREROUTING,
        _BEFORE_DOCKERS_NAT,
        (
            (*nft.comes_in_by("lo"), *nft.leave()),
            (*nft.is_ipv4(), *_TCP, *nft.redirect(INBOUND_PORT)),
        ),
    ),
    Chain(
        "mark-connections",
        "filter",
        Hook.PREROUTING,
        _MANGLE,
        ((*nft.has_mark(_MARK), *nft.mark_connection(_MARK)),),
    ),
    Chain(
        "mark-answers",
        "route",
        Hook.OUTPUT,
        _MANGLE,
        ((*nft.is_of_marked_connection(_MARK), *nft.mark_packet(_MARK)),),
    ),
)
# Nobody listens there yet, so these are all that arrives: who calls asks again after a second.
_HOLD = Chain(
    "hold",
    "filter",
    Hook.INPUT,
    _FILTER,
    tuple(
        (*_TCP, *nft.goes_to_port(port), *nft.drop())
        for port in (OUTBOUND_PORT, INBOUND_PORT)
    ),
)
# As in a sidecar's pod: the kernel's refusals do not leave, and who calls asks again.
_PATIENCE = Chain(
    "patience",
    "filter",
    Hook.OUTPUT,
    _FILTER,
    tuple(
        (
            *_TCP,
            *nft.comes_from_port(port),
            *nft.refuses(),
            *nft.is_of_opening(),
            *nft.drop(),
        )
        for port in (OUTBOUND_PORT, INBOUND_PORT)
    ),
)
