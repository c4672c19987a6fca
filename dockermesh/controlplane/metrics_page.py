"""All of the control plane's metrics, gathered from its parts when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import Metric

from dockermesh.controlplane.istio_metrics import (
    istio_ca,
    istio_rejects,
    istio_updates,
    istio_validation,
)
from dockermesh.controlplane.limiter import LimiterProcess
from dockermesh.controlplane.metrics import (
    ca_metrics,
    config_metrics,
    healing_metrics,
    host_metrics,
    limiter_metrics,
    mesh_timings,
    refusal_metrics,
    render_metrics,
    span_metrics,
    trust_metrics,
)
from dockermesh.controlplane.publisher import Publisher
from dockermesh.controlplane.spans.collector import SpanCollector
from dockermesh.controlplane.state_volume import StateVolume
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.kubeapi.verdicts import Verdicts
from dockermesh.registry import Backend


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The parts that have something to tell."""

    publisher: Publisher
    trust: Trust
    backend: Backend
    limiter: LimiterProcess
    spans: SpanCollector
    volume: StateVolume
    verdicts: Verdicts

    def text(self, missing: Sequence[str], problems: Sequence[str]) -> str:
        """For Prometheus: `missing` is what it takes to be ready, `problems` are the config's."""
        publisher = self.publisher
        servers = publisher.servers
        return render_metrics(
            servers.attested.metrics,
            servers.sync(),
            publisher.translator.counters,
            publisher.catalog,
            servers.connected,
            [*self._own(missing, problems), *self._as_istio()],
        )

    def _own(self, missing: Sequence[str], problems: Sequence[str]) -> Iterator[Metric]:
        publisher, backend = self.publisher, self.backend
        yield from config_metrics(publisher.stored, publisher.refused_config, problems)
        yield from refusal_metrics(publisher.refused())
        yield from ca_metrics(self.trust.keeper.problem)
        yield from limiter_metrics(self.limiter.report, self.limiter.problem)
        yield from trust_metrics(self.trust)
        yield from host_metrics(missing, self.volume.problem, backend.engine_problem)
        timings = publisher.servers.attested.metrics.timings
        yield from mesh_timings(timings, publisher.updates)
        yield from healing_metrics(backend.healed.counts)
        yield from span_metrics(self.spans.receiver.counts)

    def _as_istio(self) -> Iterator[Metric]:
        publisher = self.publisher
        yield from istio_updates(
            publisher.updates,
            len(publisher.catalog.services),
            len(publisher.mesh.config.virtual_services),
        )
        yield from istio_rejects(publisher.servers.attested.refusals())
        yield from istio_validation(self.verdicts)
        yield from istio_ca(self.trust)
