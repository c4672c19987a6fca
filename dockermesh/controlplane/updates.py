"""What changed between what a source said last and what it says now, and how long it takes until
proxies are told; in Istio's words, for its metrics.

Invariant: unchanged services are the same objects, so looking costs a comparison of identities.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dockermesh.model import Catalog
from dockermesh.runtime.histogram import Histogram
from dockermesh.xds.timings import PUSH, Changes

REGISTRY, CONFIG, KEYS = "registry", "config", "keys"
"""What changes are called that proxies are told of."""
_INIT = (0.01, 0.1, 0.5, 1, 3, 5)


@dataclass(slots=True)
class Updates:
    """Counts since the start; `inbound` and `triggers` by Istio's types (pilot/pkg/xds)."""

    inbound: Counter[str] = field(default_factory=Counter)
    triggers: Counter[str] = field(default_factory=Counter)
    gathered: Histogram = field(default_factory=lambda: Histogram(PUSH))
    """Seconds from a change until proxies are told."""
    translated: Histogram = field(default_factory=lambda: Histogram(_INIT))
    degraded_since: float | None = None
    """When the registry could not be followed any more; None while it is."""
    clock: Callable[[], float] = time.monotonic
    _waiting: dict[str, float] = field(default_factory=dict)

    def take_catalog(self, before: Catalog, after: Catalog) -> None:
        """The registry says something else."""
        if not after.degraded:
            self.degraded_since = None
        elif self.degraded_since is None:
            self.degraded_since = self.clock()

        found = catalog_changes(before, after)
        if found:
            self.inbound.update(found)
            is_eds = found.keys() == {"eds"}
            self.triggers["endpoint" if is_eds else "service"] += 1
        if before.workloads is not after.workloads:
            self.triggers["proxy"] += 1
        self._wait(REGISTRY)

    def take_config(self) -> None:
        """The config store says something else."""
        self.inbound["config"] += 1
        self.triggers["config"] += 1
        self._wait(CONFIG)

    def take_keys(self) -> None:
        """Key sets of token issuers are others."""
        self.triggers["global"] += 1
        self._wait(KEYS)

    def _wait(self, what: str) -> None:
        self._waiting.setdefault(what, self.clock())

    def gather(self) -> Changes:
        """All that waited to be translated, which now is."""
        found, self._waiting = self._waiting, {}
        return found

    def told(self, changes: Changes) -> None:
        """Proxies are told of these."""
        if changes:
            self.gathered.add(self.clock() - min(changes.values()))

    @property
    def lag(self) -> float:
        """For how many seconds the registry could not be followed; 0 while it is."""
        since = self.degraded_since
        return self.clock() - since if since is not None else 0.0


def catalog_changes(before: Catalog, after: Catalog) -> Counter[str]:
    """How many services have other endpoints alone (`eds`), are new or otherwise changed (`svc`),
    or are gone (`svcdelete`).
    """
    found: Counter[str] = Counter()
    if before.services is after.services:
        return found

    for name, service in after.services.items():
        known = before.services.get(name)
        if known is service:
            continue
        if known is None or replace(known, endpoints=service.endpoints) != service:
            found["svc"] += 1
        elif known.endpoints != service.endpoints:
            found["eds"] += 1
    gone = len(before.services.keys() - after.services.keys())
    if gone:
        found["svcdelete"] = gone
    return found
