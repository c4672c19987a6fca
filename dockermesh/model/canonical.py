"""What a proxy's telemetry calls its workload, told to it by its environment.

Invariant: it is in no listener, so that proxies of all workloads can share theirs. Source of the
labels and their order: Istio's `pkg/model/proxy.go` (CanonicalService, CanonicalRevision).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from dockermesh.model.contract import (
    ENV_APP,
    ENV_CANONICAL_REVISION,
    ENV_CANONICAL_SERVICE,
    ENV_NAMESPACE,
    ENV_SERVICE,
    ENV_UNKNOWN,
    ENV_VERSION,
    ENV_WORKLOAD,
)

_SERVICE = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_REVISION = (
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
)
UNKNOWN_REVISION = "latest"
_OTEL = "OTEL_RESOURCE_ATTRIBUTES"
"""OpenTelemetry's own: what its spans say of who made them."""
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 63
SEPARATOR = "|"
"""Between the facts in a certificate; none of them has one."""
UNKNOWN = "unknown"
"""What a label says where there is nothing to say (Istio)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the labels of metrics say of a workload; `name` is Istio's workload: all replicas have
    one.
    """

    name: str
    namespace: str
    app: str = UNKNOWN
    version: str = UNKNOWN
    service: str = UNKNOWN
    revision: str = UNKNOWN

    @property
    def text(self) -> str:
        """All of them in one, as a certificate has them."""
        return SEPARATOR.join(getattr(self, fact.name) for fact in fields(self))


def facts_of(workload: str, namespace: str, labels: Mapping[str, str]) -> Facts:
    """The facts about a workload `project/service-replica`, none with a character that anything
    between here and Prometheus has a meaning for.
    """
    name = service_of(workload) or UNKNOWN
    told = (
        name,
        namespace,
        labels.get("app") or UNKNOWN,
        labels.get("version") or UNKNOWN,
        _first(_SERVICE, labels) or name,
        _first(_REVISION, labels) or UNKNOWN_REVISION,
    )
    return Facts(*(_NOT_OF_A_NAME.sub("_", text)[:_LONGEST] for text in told))


def told_of_itself(
    workload: str, namespace: str, labels: Mapping[str, str]
) -> dict[str, str]:
    """The environment by which a proxy knows whose it is."""
    facts = facts_of(workload, namespace, labels)
    return {
        ENV_WORKLOAD: workload,
        ENV_NAMESPACE: namespace,
        ENV_SERVICE: facts.name,
        ENV_APP: facts.app,
        ENV_VERSION: facts.version,
        ENV_CANONICAL_SERVICE: facts.service,
        ENV_CANONICAL_REVISION: facts.revision,
        ENV_UNKNOWN: UNKNOWN,
        _OTEL: f"service.name={facts.service}.{namespace}",
    }


def service_of(workload: str) -> str:
    """The service that a workload `project/service-replica` is a replica of."""
    return workload.rpartition("/")[2].rpartition("-")[0]


def _first(names: tuple[str, ...], labels: Mapping[str, str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
