"""The end of pods: each goes, with its proxy, as soon as nothing runs in it any more.

Invariant: what runs in a pod has the time to stop that it is given, and its network until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from dockermesh.client.compose.service_steps import event_of
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.summary import name_of
from dockermesh.errors import EngineError
from dockermesh.model.contract import LABEL_ROLE
from dockermesh.runtime.timeline import span

AT_ONCE = 6
"""Containers with networks that are removed side by side: Docker 20.10 forgets to take some off
their networks when they are many, and is no faster then.
"""
_WITHIN = "container:"


class PodEnder:
    """Takes Compose's lines while it stops a project's apps, and removes pods meanwhile.

    Nobody waits for what a proxy does with its time to stop: its app is gone, and so are its logs.
    """

    def __init__(
        self, engine: LocalEngine, containers: Iterable[Mapping[str, Any]]
    ) -> None:
        self._engine = engine
        self._pods, self._proxies = (ThreadPoolExecutor(AT_ONCE) for _ in range(2))
        self._removals: list[Future[bool]] = []
        known = list(containers)
        self._proxies_of: dict[str, list[str]] = {
            c["Id"]: [] for c in known if _role(c) == "pod"
        }
        self._running: dict[str, set[str]] = {}
        """What runs in a pod, by its names; gateways have no apps."""

        for container in known:
            mode = container.get("HostConfig", {}).get("NetworkMode", "")
            pod = mode.removeprefix(_WITHIN)
            if pod not in self._proxies_of:
                continue
            if _role(container) == "proxy":
                self._proxies_of[pod].append(container["Id"])
                continue
            running = self._running.setdefault(pod, set())
            if container["State"] == "running":
                running.add(name_of(container))

    def __enter__(self) -> Self:
        for pod, running in self._running.items():
            if not running:
                self._end(pod)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        # Gateways are of use for as long as an app runs.
        if failed is None:
            for pod in self._proxies_of.keys() - self._running.keys():
                self._end(pod)
        with span("last pods removed"):
            self._proxies.shutdown()
            self._pods.shutdown()

    def __call__(self, line: str) -> None:
        """Note what stopped."""
        name, event = event_of(line)
        if event != "Stopped":
            return
        for pod, running in self._running.items():
            if name in running:
                running.remove(name)
                if not running:
                    self._end(pod)

    def has_ended_all(self) -> bool:
        """Whether there were pods, and all of them and of their proxies are gone. To be asked
        after the context.
        """
        count = sum(1 + len(proxies) for proxies in self._proxies_of.values())
        done = [removal.result() for removal in self._removals]
        return count > 0 and len(done) == count and all(done)

    def _end(self, pod: str) -> None:
        for proxy in self._proxies_of[pod]:
            self._removals.append(self._proxies.submit(self._remove, proxy))
        self._removals.append(self._pods.submit(self._remove, pod))

    def _remove(self, container: str) -> bool:
        try:
            self._engine.remove_container(container)
        except EngineError:
            # Compose's own turn comes, and it tells what is the matter.
            return False
        return True


def _role(container: Mapping[str, Any]) -> str:
    return str(container["Labels"].get(LABEL_ROLE, ""))
