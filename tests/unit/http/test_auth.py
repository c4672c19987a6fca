"""The bearer token of our HTTP servers: who has it gets in, who guesses is stopped, whatever bytes are
sent as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from dockermesh.http.auth import FailureLimit, TokenGate

TOKEN = "t" * 43
# As aiohttp hands on `Bearer \xff\xfe`.
NO_UTF8 = b"\xff\xfe".decode("utf-8", "surrogateescape")


@dataclass
class Asked:
    """What the gate reads of a request; aiohttp's own for tests takes no such bytes."""

    headers: dict[str, str] = field(default_factory=dict)
    remote: str = "172.28.0.1"
    transport: None = None


def answer(gate: TokenGate, token: str) -> int:
    request = Asked({"Authorization": f"Bearer {token}"})
    refusal = gate.refusal(cast("Any", request))
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize("token", [NO_UTF8, "ünïcode", "\ud800", "\x00"])
def test_a_token_of_any_bytes_is_wrong_and_counts_as_a_guess(token: str) -> None:
    gate = TokenGate(TOKEN, FailureLimit(burst=2, clock=lambda: 0.0))
    assert [answer(gate, token) for _ in range(3)] == [401, 401, 429]


def test_who_guesses_does_not_lock_out_the_token_from_the_same_address() -> None:
    gate = TokenGate(TOKEN, FailureLimit(burst=2, clock=lambda: 0.0))
    answers = [answer(gate, t) for t in ("a", "b", "c", TOKEN, "d", TOKEN)]
    assert answers == [401, 401, 429, 200, 429, 200]


def test_no_token_is_no_guess() -> None:
    gate = TokenGate(TOKEN, FailureLimit(burst=1, clock=lambda: 0.0))
    assert [answer(gate, "") for _ in range(3)] == [401, 401, 401]
