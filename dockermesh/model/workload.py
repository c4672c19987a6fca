"""Workloads: running replicas (and gateways) with a proxy of ours, as the registrar attests them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from dockermesh.model.service import NO_LABELS


class WorkloadKind(StrEnum):
    """The role of a workload's proxy; values are those of Istio's node ids."""

    SIDECAR = "sidecar"
    GATEWAY = "router"


@dataclass(frozen=True, slots=True)
class Workload:
    """One pod with its proxy, and its app if it has one.

    `name` is `<project>/<service>-<replica>`; `id` the pod's container id; `host` the machine that runs it.
    `token_sha256` is the hex digest of the token that the pod made for its proxy: the pod prints the digest to its
    own log, which only Docker can vouch for, and so the proxy that shows the token is proven to be this workload.
    `config` is YAML of Istio resources that come with the workload (a generated Gateway), from its labels.
    """

    id: str
    name: str
    service: str = ""
    kind: WorkloadKind = WorkloadKind.SIDECAR
    namespace: str = "default"
    service_account: str = ""
    address: str = ""
    host: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    token_sha256: str = ""
    config: str = ""
    project: str = ""
    app_container: str = ""
    proxy_container: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, the form kept in Consul's KV."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"labels": dict(self.labels), "kind": self.kind.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Workload:
        """The workload written by `to_dict`; unknown keys are ignored, so that versions can be mixed."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        return cls(**known | {"kind": WorkloadKind(known.get("kind", WorkloadKind.SIDECAR))})
