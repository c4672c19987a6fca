"""What is counted of traffic, as the control plane tells it and the shell reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

NUMBERS = (
    "requests",
    "failures",
    "secure",
    "plain",
    "sent",
    "received",
    "opened",
    "closed",
)
"""The counts that are one number each."""


@dataclass(slots=True)
class Tally:
    """Requests, bytes and connections; `secure` are requests and connections with mutual TLS,
    `plain` those without, `codes` requests by the status of their answer.
    """

    requests: int = 0
    failures: int = 0
    secure: int = 0
    plain: int = 0
    sent: int = 0
    received: int = 0
    opened: int = 0
    closed: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def add_tally(self, other: Tally) -> None:
        """Count what another counted, too."""
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for code, number in other.codes.items():
            self.codes[code] = self.codes.get(code, 0) + number
