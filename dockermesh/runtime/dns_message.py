"""The little of DNS messages that we look at (RFC 1035, 6891): the question, and how long an answer
over UDP may be.

Answers of others pass as they are, so records are never read, and written in one form only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!6H")
PTR, OPT = 12, 41
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
MAX_MESSAGE = 65535
_IN = 1
_IS_ANSWER, _AUTHORITATIVE, _TRUNCATED, _WANTED = 0x8000, 0x0400, 0x0200, 0x0100
_OPCODE = 0x7800
_LEAST_UDP, _MOST_UDP = 512, 1232
_MAX_NAME = 255
# Where a question begins, as records point to it.
_POINTER = 0xC000 | HEADER.size


class UnreadableError(ValueError):
    """A message that is no question: nobody waits for an answer to it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `name` in lower case without a last dot, and the bytes that it came in.

    `error` is why it cannot be answered, else NOERROR; `udp_size` what its sender takes over UDP.
    """

    id: int
    flags: int
    text: bytes
    name: str = ""
    type: int = 0
    error: int = NOERROR
    udp_size: int = _LEAST_UDP
    has_edns: bool = False


def read_question(message: bytes) -> Question:
    """The question of a message. Raises UnreadableError for what is none."""
    if len(message) < HEADER.size:
        raise UnreadableError("shorter than a header")
    number, flags, questions, answers, authorities, additional = HEADER.unpack_from(
        message
    )
    if flags & _IS_ANSWER:
        raise UnreadableError("an answer")
    bare = Question(number, flags, b"", error=FORMERR)
    if flags & _OPCODE:
        return Question(number, flags, b"", error=NOTIMP)
    if questions != 1:
        return bare

    labels, end = _labels(message)
    if labels is None or end + 4 > len(message):
        return bare
    kind, class_ = struct.unpack_from("!2H", message, end)
    text = message[HEADER.size : end + 4]
    size, has_edns = _LEAST_UDP, False
    rest = message[end + 4 :]
    if additional and not answers and not authorities and len(rest) >= 11:
        root, option, told = struct.unpack_from("!BHH", rest)
        if root == 0 and option == OPT:
            size, has_edns = max(_LEAST_UDP, min(told, _MOST_UDP)), True

    return Question(
        number,
        flags,
        text,
        name=b".".join(labels).decode("ascii", "replace").lower(),
        type=kind,
        error=NOERROR if class_ == _IN else REFUSED,
        udp_size=size,
        has_edns=has_edns,
    )


def _labels(message: bytes) -> tuple[list[bytes] | None, int]:
    """The labels of the name behind the header, and where it ends; None if it cannot be read."""
    found: list[bytes] = []
    at = HEADER.size
    while at < len(message) and at - HEADER.size < _MAX_NAME:
        size = message[at]
        at += 1
        if size == 0:
            return found, at
        if size > 63:
            break
        found.append(message[at : at + size])
        at += size
    return None, at


def write_answer(
    question: Question, code: int = NOERROR, *, pointer: str = "", ttl: int = 0
) -> bytes:
    """An answer without records, or with the name that an address has."""
    flags = _IS_ANSWER | _AUTHORITATIVE | question.flags & (_OPCODE | _WANTED) | code
    head = HEADER.pack(
        question.id,
        flags,
        1 if question.text else 0,
        1 if pointer else 0,
        0,
        1 if question.has_edns else 0,
    )
    record = b""
    if pointer:
        name = _written(pointer)
        record = struct.pack("!3HIH", _POINTER, PTR, _IN, ttl, len(name)) + name
    option = (
        struct.pack("!BHHIH", 0, OPT, _MOST_UDP, 0, 0) if question.has_edns else b""
    )
    return head + question.text + record + option


def _written(name: str) -> bytes:
    parts = [label.encode("ascii", "replace")[:63] for label in name.split(".")]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def has_records(answer: bytes) -> bool:
    """Whether an answer has what was asked for."""
    return len(answer) >= HEADER.size and HEADER.unpack_from(answer)[3] > 0


def fitting(question: Question, answer: bytes) -> bytes:
    """The answer if it may be sent over UDP, else one that says to ask over TCP."""
    if len(answer) <= question.udp_size:
        return answer
    short = bytearray(write_answer(question, answer[3] & 0xF))
    short[2] |= _TRUNCATED >> 8
    return bytes(short)
