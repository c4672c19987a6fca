"""Docker 20.10's networks with containers that are gone: `down` gets past them."""

from __future__ import annotations

from typing import cast

import pytest

from dockermesh.client.compose.stuck_networks import (
    is_stuck,
    is_used,
    release_networks,
)
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError

SAID = "error while removing network: network shop_default id 6b43 has active endpoints"


class Engine:
    """One with a network, what it believes to be on it, and what there is."""

    def __init__(self, believed: set[str], there: set[str], extra: int = 0) -> None:
        self.believed, self.there, self.extra = believed, there, extra
        self.networks = {"shop_default"}

    def inspect(self, container: str) -> dict[str, str] | None:
        return {} | {"Name": container} if container in self.there else None

    def on_network(self, _: str) -> list[str]:
        return sorted(self.believed)

    def forget_endpoint(self, _: str, container: str) -> bool:
        was_there = container in self.believed
        self.believed.discard(container)
        return was_there

    def remove_network(self, name: str) -> bool:
        if self.believed or self.extra:
            raise EngineError(f"the engine failed: {SAID}")
        self.networks.remove(name)
        return True


def released(engine: Engine, *removed: str) -> str:
    said: list[str] = []
    release_networks(cast(LocalEngine, engine), ["shop_default"], removed, said.append)
    return "\n".join(said)


def test_what_is_left_of_removed_containers_is_taken_off() -> None:
    engine = Engine(believed={"shop-web-1"}, there=set())
    assert not is_used(cast(LocalEngine, engine), "shop_default")

    said = released(engine, "shop-db-1", "shop-web-1")

    assert not engine.networks
    assert "shop-web-1" in said
    assert "shop-db-1" not in said


def test_a_container_that_is_there_stays_on_its_network() -> None:
    engine = Engine(believed={"guest"}, there={"guest"})
    assert is_used(cast(LocalEngine, engine), "shop_default")

    released(engine, "guest")

    assert engine.believed == {"guest"}


def test_a_wrong_count_is_told_with_what_helps() -> None:
    engine = Engine(believed=set(), there=set(), extra=1)

    said = released(engine, "shop-web-1")

    assert engine.networks == {"shop_default"}
    assert "docker network rm shop_default" in said


@pytest.mark.parametrize(("what", "stuck"), [(SAID, True), ("no such host", False)])
def test_which_failure_it_is(what: str, stuck: bool) -> None:
    assert is_stuck(EngineError(what)) is stuck
