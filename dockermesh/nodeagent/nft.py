"""nftables of the kernel, spoken to directly: a table of rules that is put in force, or taken away,
as a whole.

The command `nft` would say the same in a language of its own, by a process for each namespace and
an image that has it. Here is what our rules are made of, and no more. Numbers are those of the
kernel's `linux/netfilter/nf_tables.h`; a test lets `nft` read the rules back.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

_NETLINK_NETFILTER = 12
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 0x10, 0x11, 10
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_INET = 1
_ERROR = 2
_NESTED = 0x8000
_REGISTER = 1
_VERDICT_REGISTER = 0
_RETURN = -5
_DROP = 0
_PORT_GIVEN = 2
_TO_ADDRESS, _IPV4 = 1, 2
_STATUS_OF_CONNECTION, _MARK_OF_CONNECTION = 2, 3
_ASSURED = 4
_RESET_OF_OPENING = 0x14
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_NAME_SIZE = 16


class Hook(IntEnum):
    """Where a chain looks at packets."""

    PREROUTING = 0
    INPUT = 1
    OUTPUT = 3


class _Meta(IntEnum):
    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    SKUID = 10
    NFPROTO = 15
    L4PROTO = 16


Part = bytes
"""An expression; a rule is several, of which the last says what to do."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that hangs at a hook, with its rules."""

    name: str
    kind: str
    hook: Hook
    priority: int
    rules: tuple[tuple[Part, ...], ...]


# conditions
# --------------------------------------------------------------------------------------------------


def is_ipv4(*, negated: bool = False) -> tuple[Part, ...]:
    """Whether it is IPv4."""
    return _meta(_Meta.NFPROTO), _compare(bytes([socket.AF_INET]), negated=negated)


def is_protocol(number: int) -> tuple[Part, ...]:
    """Whether it is TCP, or UDP."""
    return _meta(_Meta.L4PROTO), _compare(bytes([number]))


def has_mark(mark: int) -> tuple[Part, ...]:
    """Whether the packet has the mark."""
    return _meta(_Meta.MARK), _compare(struct.pack("=I", mark))


def is_of_marked_connection(mark: int) -> tuple[Part, ...]:
    """Whether the packet's connection has the mark."""
    load = _attr(1, _number(_REGISTER)) + _attr(2, _number(_MARK_OF_CONNECTION))
    return _part("ct", load), _compare(struct.pack("=I", mark))


def is_of_opening() -> tuple[Part, ...]:
    """Whether the packet's connection is not open yet."""
    load = _attr(1, _number(_REGISTER)) + _attr(2, _number(_STATUS_OF_CONNECTION))
    only = _masked(struct.pack("=I", _ASSURED))
    return _part("ct", load), only, _compare(bytes(4))


def refuses() -> tuple[Part, ...]:
    """Whether it is the answer to a connection to where nobody listens (TCP's RST with ACK)."""
    flags = bytes([_RESET_OF_OPENING])
    return _payload(_TRANSPORT_HEADER, 13, 1), _masked(flags), _compare(flags)


def comes_from_port(port: int) -> tuple[Part, ...]:
    """Whether this is its source port."""
    load = _payload(_TRANSPORT_HEADER, 0, 2)
    return load, _compare(struct.pack("!H", port))


def is_of_user(uid: int) -> tuple[Part, ...]:
    """Whether a process of this user sends it."""
    return _meta(_Meta.SKUID), _compare(struct.pack("=I", uid))


def comes_in_by(interface: str) -> tuple[Part, ...]:
    """Whether it came in there."""
    return _meta(_Meta.IIFNAME), _compare(_interface(interface))


def goes_out_by(interface: str) -> tuple[Part, ...]:
    """Whether it goes out there."""
    return _meta(_Meta.OIFNAME), _compare(_interface(interface))


def goes_to(network: bytes, *, negated: bool = False) -> tuple[Part, ...]:
    """Whether its IPv4 address begins with these bytes."""
    load = _payload(_NETWORK_HEADER, 16, len(network))
    return load, _compare(network, negated=negated)


def goes_to_port(port: int, *, negated: bool = False) -> tuple[Part, ...]:
    """Whether this is its destination port."""
    load = _payload(_TRANSPORT_HEADER, 2, 2)
    return load, _compare(struct.pack("!H", port), negated=negated)


# what to do
# --------------------------------------------------------------------------------------------------


def leave() -> tuple[Part, ...]:
    """Look at no more rules of the chain."""
    return (_verdict(_RETURN),)


def drop() -> tuple[Part, ...]:
    """Take the packet away."""
    return (_verdict(_DROP),)


def redirect(port: int) -> tuple[Part, ...]:
    """Lead it to a port of this namespace's own."""
    to = _attr(1, _number(_REGISTER)) + _attr(3, _number(_PORT_GIVEN))
    return _load(struct.pack("!H", port)), _part("redir", to)


def lead_to(address: bytes) -> tuple[Part, ...]:
    """Lead it to another IPv4 address, at the same port."""
    fields = (_TO_ADDRESS, _IPV4, _REGISTER)
    to = b"".join(_attr(n, _number(value)) for n, value in enumerate(fields, 1))
    return _load(address), _part("nat", to)


def mark_packet(mark: int) -> tuple[Part, ...]:
    """Give the packet the mark."""
    put = _attr(2, _number(_Meta.MARK)) + _attr(3, _number(_REGISTER))
    return _load(struct.pack("=I", mark)), _part("meta", put)


def mark_connection(mark: int) -> tuple[Part, ...]:
    """Give the packet's connection the mark."""
    put = _attr(2, _number(_MARK_OF_CONNECTION)) + _attr(4, _number(_REGISTER))
    return _load(struct.pack("=I", mark)), _part("ct", put)


# transactions
# --------------------------------------------------------------------------------------------------


def replace_table(name: str, chains: Iterable[Chain]) -> None:
    """Put a table of the family `inet` in force in place of one that is there. Raises OSError; then
    nothing has changed.
    """
    table = _attr(1, _text(name))
    steps = [
        # Of one that may be there or not: it is made, and then deleted.
        (_NEW_TABLE, table),
        (_DELETE_TABLE, table),
        (_NEW_TABLE, table),
        *(step for chain in chains for step in _steps(name, chain)),
    ]
    _transact(steps)


def delete_table(name: str) -> None:
    """Take a table away, also where there is none. Raises OSError."""
    table = _attr(1, _text(name))
    _transact([(_NEW_TABLE, table), (_DELETE_TABLE, table)])


def _steps(table: str, chain: Chain) -> Iterator[tuple[int, bytes]]:
    hook = _attr(1, _number(chain.hook)) + _attr(2, struct.pack("!i", chain.priority))
    yield (
        _NEW_CHAIN,
        _attr(1, _text(table))
        + _attr(3, _text(chain.name))
        + _attr(4, hook, is_nested=True)
        + _attr(7, _text(chain.kind)),
    )
    for parts in chain.rules:
        yield (
            _NEW_RULE,
            _attr(1, _text(table))
            + _attr(2, _text(chain.name))
            + _attr(4, b"".join(parts), is_nested=True),
        )


def _transact(steps: list[tuple[int, bytes]]) -> None:
    # Its begin and end are told to netfilter itself, and name the part of it that they are for.
    begin = _message(_BATCH_BEGIN, 0, 0, b"", (0, _SUBSYSTEM))
    end = _message(_BATCH_END, 0, len(steps) + 1, b"", (0, _SUBSYSTEM))
    flags = _ACK | _CREATE | _APPEND
    told = [
        _message(_SUBSYSTEM << 8 | kind, flags, number, body, (_INET, 0))
        for number, (kind, body) in enumerate(steps, 1)
    ]
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER
    ) as kernel:
        kernel.settimeout(5)
        kernel.bind((0, 0))
        kernel.send(b"".join([begin, *told, end]))
        _await(kernel, len(steps))


def _await(kernel: socket.socket, steps: int) -> None:
    answered = 0
    while answered < steps:
        data = kernel.recv(1 << 16)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind == _ERROR:
                (error,) = struct.unpack_from("=i", data, 16)
                if error:
                    raise OSError(-error, f"nftables: {os.strerror(-error)}")
                answered += 1
            data = data[(size + 3) & ~3 :]


def _message(
    kind: int, flags: int, number: int, body: bytes, about: tuple[int, int]
) -> bytes:
    family, resource = about
    content = struct.pack("!BBH", family, 0, resource) + body
    size = 16 + len(content)
    return struct.pack("=IHHII", size, kind, _REQUEST | flags, number, 0) + content


# encoding
# --------------------------------------------------------------------------------------------------


def _attr(kind: int, value: bytes, *, is_nested: bool = False) -> bytes:
    size = 4 + len(value)
    flag = _NESTED if is_nested else 0
    return struct.pack("=HH", size, kind | flag) + value + bytes(-size % 4)


def _number(value: int) -> bytes:
    return struct.pack("!I", value)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _interface(name: str) -> bytes:
    return name.encode().ljust(_NAME_SIZE, b"\0")


def _part(name: str, content: bytes) -> Part:
    inside = _attr(1, _text(name)) + _attr(2, content, is_nested=True)
    return _attr(1, inside, is_nested=True)


def _data(value: bytes) -> bytes:
    return _attr(1, value)


def _meta(key: _Meta) -> Part:
    return _part("meta", _attr(1, _number(_REGISTER)) + _attr(2, _number(key)))


def _payload(header: int, offset: int, size: int) -> Part:
    fields = (_REGISTER, header, offset, size)
    content = (_attr(n, _number(value)) for n, value in enumerate(fields, 1))
    return _part("payload", b"".join(content))


def _compare(value: bytes, *, negated: bool = False) -> Part:
    return _part(
        "cmp",
        _attr(1, _number(_REGISTER))
        + _attr(2, _number(int(negated)))
        + _attr(3, _data(value), is_nested=True),
    )


def _masked(mask: bytes) -> Part:
    """Leave of what was loaded those bits that the mask has."""
    numbers = (_REGISTER, _REGISTER, len(mask))
    content = b"".join(_attr(n, _number(value)) for n, value in enumerate(numbers, 1))
    return _part(
        "bitwise",
        content
        + _attr(4, _data(mask), is_nested=True)
        + _attr(5, _data(bytes(len(mask))), is_nested=True),
    )


def _load(value: bytes) -> Part:
    content = _attr(1, _number(_REGISTER)) + _attr(2, _data(value), is_nested=True)
    return _part("immediate", content)


def _verdict(code: int) -> Part:
    verdict = _attr(2, _attr(1, struct.pack("!i", code)), is_nested=True)
    content = _attr(1, _number(_VERDICT_REGISTER)) + _attr(2, verdict, is_nested=True)
    return _part("immediate", content)
