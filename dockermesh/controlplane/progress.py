"""What became of stored objects, as the config API shows it in their status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from dockermesh.config.api.rate_limit import Mode
from dockermesh.controlplane.blame import Blame
from dockermesh.controlplane.trust.gateway_credentials import GatewayCredentials
from dockermesh.kubeapi.cache import Stored
from dockermesh.translate.mesh.findings import Reason
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
    credentials: GatewayCredentials | None = None
    blame: Blame | None = None
    # Why what all proxies are to count together is not counted.
    limiter_problem: Callable[[], str] = str

    def counts(self) -> tuple[int, int, int]:
        """Connected proxies, and those of them that are behind or refused their config."""
        sync = self.sync()
        return sync.connected, sync.pending, sync.nacked

    def refusals(self, resource: str) -> Sequence[tuple[str, str]]:
        """The proxies that refuse what came of `Kind namespace/name`, with their words."""
        return self.blame.of(resource) if self.blame is not None else ()

    def findings(self, resource: str) -> Sequence[tuple[str, str]]:
        """What of `Kind namespace/name` has no effect: reasons and messages."""
        found = [
            (finding.reason.value, finding.message)
            for finding in self.translator.findings(resource)
        ]
        missing = Reason.REFERENCE_NOT_FOUND.value
        found += [(missing, text) for text in self._missing(resource)]
        problem = self.limiter_problem()
        if problem and self._is_counted_together(resource):
            found.append((Reason.NOT_COUNTED.value, f"nothing is counted: {problem}"))
        return found

    def _is_counted_together(self, resource: str) -> bool:
        config = self.translator.mesh.config
        together = (r for r in config.rate_limits if r.spec.mode is Mode.GLOBAL)
        asked = chain(together, config.rate_limit_configs)
        return any(str(each) == resource for each in asked)

    def _missing(self, resource: str) -> Iterator[str]:
        """The certificates that a Gateway names and that are not there."""
        if self.credentials is None:
            return
        mesh = self.translator.mesh
        for gateway in mesh.config.gateways:
            if str(gateway) == resource:
                workloads = mesh.workloads.values()
                yield from self.credentials.missing_for(gateway, workloads)

    def has_taken(self, key: str, version: int) -> bool:
        """Whether proxies are served from this version of an object, or a later one."""
        # The store may be ahead of what was translated.
        known = self.served_from().get(key)
        return known is not None and known.version >= version
