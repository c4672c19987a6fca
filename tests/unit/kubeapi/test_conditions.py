"""The status that an object is shown with: computed, true to what the mesh made of it, and never
stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from dockermesh.kubeapi.served import named
from dockermesh.kubeapi.tables import table
from dockermesh.kubeapi.view import View

KEY = "networking.istio.io/DestinationRule/shop/web"
WRITTEN = "2026-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True)
class Stored:
    resource: Mapping[str, Any]
    version: int = 7
    damage: str = ""
    is_lost: bool = False


@dataclass(slots=True)
class Outcome:
    numbers: tuple[int, int, int] = (3, 0, 0)
    noted: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    version: int = 7
    refused: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def counts(self) -> tuple[int, int, int]:
        return self.numbers

    def findings(self, resource: str) -> list[tuple[str, str]]:
        return self.noted.get(resource, [])

    def refusals(self, resource: str) -> list[tuple[str, str]]:
        return self.refused.get(resource, [])

    def has_taken(self, key: str, version: int) -> bool:
        return key == KEY and version <= self.version


def stored(spec: Mapping[str, Any] | None = None) -> Stored:
    return Stored(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "creationTimestamp": WRITTEN,
                "generation": 2,
            },
            "spec": spec or {"host": "web"},
        }
    )


def shown(view: View, item: Stored) -> dict[str, dict[str, Any]]:
    served = named("destinationrule")
    assert served is not None
    document = view(served, "v1", KEY, item)
    assert document["metadata"]["resourceVersion"] == "7"
    assert document["status"]["observedGeneration"] == 2
    return {c["type"]: c for c in document["status"]["conditions"]}


def test_a_valid_object_is_accepted_and_counts_the_proxies_in_sync() -> None:
    found = shown(View(Outcome((5, 1, 0))), stored())
    assert found["Accepted"] == {
        "type": "Accepted",
        "status": "True",
        "reason": "Valid",
        "message": "",
        "lastTransitionTime": WRITTEN,
        "observedGeneration": 2,
    }
    assert (found["Programmed"]["status"], found["Programmed"]["reason"]) == (
        "False",
        "Pending",
    )
    assert found["Programmed"]["message"].startswith("4/5 proxies ")


@pytest.mark.parametrize(
    ("numbers", "status", "reason", "text"),
    [
        ((3, 0, 0), "True", "Programmed", "3/3 proxies"),
        ((3, 0, 1), "True", "Programmed", "2/3 proxies"),
        ((0, 0, 0), "True", "Programmed", "0/0 proxies"),
    ],
)
def test_programmed_says_how_many_proxies_have_it(
    numbers: tuple[int, int, int], status: str, reason: str, text: str
) -> None:
    found = shown(View(Outcome(numbers)), stored())["Programmed"]
    assert (found["status"], found["reason"]) == (status, reason)
    assert found["message"].startswith(text)


def test_a_refusal_is_held_against_what_it_came_of_alone() -> None:
    said = [(f"shop/web-{n}", "no such filter") for n in range(1, 6)]
    outcome = Outcome((6, 0, 5), refused={"DestinationRule shop/web": said})
    found = shown(View(outcome), stored())["Programmed"]
    assert (found["status"], found["reason"]) == ("False", "Refused")
    assert found["message"] == (
        "1/6 proxies run the latest configuration of the mesh; refused by shop/web-1,"
        " shop/web-2, shop/web-3 and 2 more: no such filter"
    )

    outcome.refused = {"DestinationRule shop/other": said}
    found = shown(View(outcome), stored())["Programmed"]
    assert found["status"] == "True"
    assert "5 refused what came of another resource" in found["message"]


def test_what_no_proxy_was_told_yet_is_not_programmed() -> None:
    found = shown(View(Outcome(version=6)), stored())["Programmed"]
    assert (found["status"], found["reason"]) == ("False", "Pending")
    assert found["message"].startswith("0/3 proxies")


def test_an_object_in_the_store_that_does_not_validate_says_why() -> None:
    found = shown(View(Outcome()), stored({"hots": "web"}))
    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == (
        "False",
        "Invalid",
    )
    assert "spec.hots: unknown field" in found["Accepted"]["message"]
    assert (found["Programmed"]["status"], found["Programmed"]["reason"]) == (
        "False",
        "Invalid",
    )


def test_what_has_no_effect_is_not_accepted_and_says_why() -> None:
    outcome = Outcome(
        noted={
            "DestinationRule shop/web": [
                ("Conflicted", "older has it"),
                ("NotTranslated", "no"),
            ]
        }
    )
    found = shown(View(outcome), stored())["Accepted"]
    assert (found["status"], found["reason"], found["message"]) == (
        "False",
        "Conflicted",
        "older has it; no",
    )


def test_the_time_is_that_of_the_change_of_a_condition() -> None:
    outcome = Outcome()
    view, item = View(outcome), stored()
    assert shown(view, item)["Programmed"]["lastTransitionTime"] == WRITTEN
    outcome.numbers = (3, 1, 0)
    changed = shown(view, item)
    assert changed["Programmed"]["lastTransitionTime"] > WRITTEN
    assert changed["Accepted"]["lastTransitionTime"] == WRITTEN
    assert shown(view, item) == changed


def test_tables_have_the_conditions_as_columns() -> None:
    served = named("destinationrule")
    assert served is not None
    made = table(
        served, [View(Outcome((2, 1, 0)))(served, "v1", KEY, stored())], "7", "None"
    )
    names = [column["name"] for column in made["columnDefinitions"]]
    cells = dict(zip(names, made["rows"][0]["cells"], strict=True))
    assert (cells["Accepted"], cells["Programmed"], cells["Why"]) == (
        "True",
        "False",
        "",
    )
    assert cells["Proxies"].startswith("1/2 proxies")
    assert all(
        c["priority"]
        for c in made["columnDefinitions"]
        if c["name"] in {"Accepted", "Programmed", "Proxies"}
    )
