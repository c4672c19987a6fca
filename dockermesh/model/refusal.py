"""A registration that is not taken as it asks to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class RefusedFor(StrEnum):
    """What it asks for that is another's."""

    NAME = "name"
    ID = "id"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who asks for what, whose that is, what follows, and what helps.

    `asker` is a workload, or the registration's id where there is none.
    """

    kind: RefusedFor
    asker: str
    at: str
    service: str
    namespace: str
    wanted: str
    owner: str
    why: str
    fix: str

    @property
    def sentence(self) -> str:
        """All of it but what helps."""
        who = f"{self.asker} ({self.at})"
        if self.kind is RefusedFor.ID:
            return (
                f"{who} asks for the service id {self.wanted}, which is {self.owner}'s:"
                f" {self.why}"
            )
        return (
            f"{who} is registered as {self.wanted}, which is {self.owner}'s, and gets none"
            f" of its requests: {self.why}"
        )

    def to_dict(self) -> dict[str, str]:
        """A JSON object, with the sentence for who only shows it."""
        return {k: str(v) for k, v in asdict(self).items()} | {
            "sentence": self.sentence
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Refusal:
        """What `to_dict` wrote."""
        told = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        return cls(**(told | {"kind": RefusedFor(told["kind"])}))
