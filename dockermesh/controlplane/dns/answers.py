"""What the control plane answers to a question: the name of an address, Consul's answer, or
REFUSED, upon which a pod's name server asks the next one.

Nothing else is forwarded: this is no open resolver.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dockermesh.runtime.dns_message import (
    NOERROR,
    PTR,
    REFUSED,
    SERVFAIL,
    Question,
    has_records,
    write_answer,
)
from dockermesh.translate.mesh.reverse_names import reverse_names, reversed_address
from dockermesh.translate.mesh.state import MeshState

_TTL_S = 5
Ask = Callable[[bytes], Awaitable[bytes | None]]
"""Asks another server with the client's message; None if that does not answer."""


@dataclass(slots=True)
class Answers:
    """`mesh` gives what is known now; `consul` asks Consul, where there is one, which knows the
    names below `domain`.
    """

    mesh: Callable[[], MeshState]
    domain: str
    consul: Ask | None = None
    _seen: MeshState | None = None
    _names: dict[str, str] | None = None

    async def answer(self, question: Question, message: bytes) -> bytes:
        """The answer to a client's message."""
        if question.error != NOERROR:
            return write_answer(question, question.error)
        if address := reversed_address(question.name):
            return await self._reverse(question, message, address)
        if self.consul is None or not self._is_consuls(question.name):
            return write_answer(question, REFUSED)
        return await self.consul(message) or write_answer(question, SERVFAIL)

    async def _reverse(self, question: Question, message: bytes, address: str) -> bytes:
        if host := self._reverse_names().get(address):
            pointer = host if question.type == PTR else ""
            return write_answer(question, pointer=pointer, ttl=_TTL_S)
        # Consul's nodes, and services that the mesh leaves out. That it has none says nothing.
        found = await self.consul(message) if self.consul is not None else None
        if found is not None and has_records(found):
            return found
        return write_answer(question, REFUSED)

    def _is_consuls(self, name: str) -> bool:
        return f".{name}".endswith(f".{self.domain}")

    def _reverse_names(self) -> dict[str, str]:
        # Made when they are asked for: most states of a mesh pass without.
        mesh = self.mesh()
        if self._names is None or mesh is not self._seen:
            self._seen, self._names = mesh, reverse_names(mesh)
        return self._names
