"""Networks that an engine keeps because it takes removed containers for being on them: Docker 20.10
does so at times, when many containers leave at once.

Invariant: only containers that were removed are taken off a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dockermesh.client.compose.compose_call import Say
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError

_STUCK = "has active endpoints"


def is_stuck(error: EngineError) -> bool:
    """Whether it was a network that could not be removed."""
    return _STUCK in error.what


def is_used(engine: LocalEngine, network: str) -> bool:
    """Whether a container is on the network in truth."""
    return any(engine.inspect(found) for found in engine.on_network(network))


def release_networks(
    engine: LocalEngine, networks: Iterable[str], removed: Sequence[str], say: Say
) -> None:
    """Remove networks that nobody uses, after taking off them what is left of removed containers.
    Says what helped, and which stay all the same.
    """
    gone = [container for container in removed if engine.inspect(container) is None]

    for network in networks:
        left = [name for name in gone if engine.forget_endpoint(network, name)]
        try:
            engine.remove_network(network)
        except EngineError as error:
            if not is_stuck(error):
                raise
            say(
                f"network {network} stays: the engine counts containers on it that are gone. The"
                " next `up` takes it; once the engine was restarted, `docker network rm"
                f" {network}` removes it"
            )
            continue
        if left:
            say(
                f"network {network}: the engine had forgotten to take off {', '.join(left)}"
            )
