"""What became of stored objects, as the config API shows it in their status."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dockermesh.kubeapi.cache import Stored
from dockermesh.translate.translator import Translator
from dockermesh.xds import Sync


@dataclass(frozen=True, slots=True)
class MeshOutcome:
    """Asks the control plane's parts. `served_from` is the contents of the store that proxies are
    served from.
    """

    translator: Translator
    sync: Callable[[], Sync]
    served_from: Callable[[], Mapping[str, Stored]]

    def counts(self) -> tuple[int, int, int]:
        """Connected proxies, and those of them that are behind or refused their config."""
        sync = self.sync()
        return sync.connected, sync.pending, sync.nacked

    def findings(self, resource: str) -> Sequence[tuple[str, str]]:
        """What of `Kind namespace/name` has no effect: reasons and messages."""
        return [
            (finding.reason.value, finding.message)
            for finding in self.translator.findings(resource)
        ]

    def has_taken(self, key: str, version: int) -> bool:
        """Whether proxies are served from this version of an object, or a later one."""
        # The store may be ahead of what was translated.
        known = self.served_from().get(key)
        return known is not None and known.version >= version
