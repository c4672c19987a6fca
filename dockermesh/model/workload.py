"""Workloads: running replicas (and gateways) with a proxy of ours, as the registrar attests
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from dockermesh.model.identity import Identity, account_of
from dockermesh.model.protocol import Protocol
from dockermesh.model.service import NO_LABELS

JOINED = "joined"
"""The host and project of workloads outside Docker. No registrar owns them: they stay until they
are revoked.
"""


TLS_MODE_LABEL = "security.istio.io/tlsMode"
"""Istio's label: `istio` where a proxy takes mutual TLS, `disabled` where none does."""
TRAFFIC_LABELS = "traffic.sidecar.istio.io/"
"""Prefix of Istio's settings of what a pod captures: `includeInboundPorts`, `excludeInboundPorts`.
"""

PROXY_CONFIG_LABEL = "proxy.istio.io/config"
"""Istio's annotation about one workload's proxy; here a label, with YAML in it."""


def compose_names(workload: str) -> tuple[str, str]:
    """The Compose project and service of a workload called `<project>/<service>-<replica>`."""
    project, _, replica = workload.rpartition("/")
    return project, replica.rpartition("-")[0]


class WorkloadKind(StrEnum):
    """The role of a workload's proxy; values are those of Istio's node ids."""

    SIDECAR = "sidecar"
    GATEWAY = "router"
    NODE = "node"


class ProxyMode(StrEnum):
    """Which proxy a workload has: one of its own, or that of its host, which serves many."""

    SIDECAR = "sidecar"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class ServedPort:
    """A port that the workload's app serves, and the service that it belongs to; known before the
    app runs.
    """

    service: str
    port: int
    protocol: str = Protocol.AUTO.value


@dataclass(frozen=True, slots=True)
class Workload:
    """One pod with its proxy, and its app if it has one.

    `name` is `<project>/<service>-<replica>`; `id` the pod's container id; `host` the machine that
    runs it. `token_sha256` is the hex digest of the token that the pod made for its proxy: the pod
    prints the digest to its own log, which only Docker can vouch for, and so the proxy that shows
    the token is proven to be this workload. `ports` does not change when the app stops, so that
    neither its inbound listener nor its services do. A record lives as long as the pod's container
    exists, running or not: requests to a service that is just restarting are held, not refused.
    `published` are its ports that the host publishes past any gateway, `probed` those that Consul's
    checks call in plaintext. `aliases` are other names that Docker's DNS has for its Compose
    service. `config` is YAML of Istio resources that come with the workload (a generated Gateway),
    from its labels. `since` tells when it began to serve a name (in lower case; nanoseconds since
    the epoch): whose a name is depends on who was first. `bridges` are the host's own addresses on
    a gateway's networks, from which its processes call what is published. `protocol_rules` tells by
    port what decided its protocol (see `ProtocolRule`), for people.

    In `mode` node it has neither pod nor token: the proxy of its host (a workload of the kind NODE)
    serves it, through the network namespace whose path, as that proxy sees it, is
    `network_namespace`.
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
    aliases: tuple[str, ...] = ()
    ports: tuple[ServedPort, ...] = ()
    token_sha256: str = ""
    config: str = ""
    project: str = ""
    app_container: str = ""
    proxy_container: str = ""
    published: tuple[int, ...] = ()
    probed: tuple[int, ...] = ()
    bridges: tuple[str, ...] = ()
    since: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    protocol_rules: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({})
    )
    mode: ProxyMode = ProxyMode.SIDECAR
    network_namespace: str = ""

    @property
    def compose_service(self) -> str:
        """The Compose service of `<project>/<service>-<replica>`."""
        return compose_names(self.name)[1]

    def served_names(self) -> set[str]:
        """The names that it serves, in lower case: of its Compose service and of its ports."""
        names = {self.compose_service, *(p.service for p in self.ports)}
        return {name.lower() for name in names} if self.ports else set()

    def aged(self, old: Workload | None) -> Workload:
        """As it is known since when `old` was written, of the same name and account.

        One that serves nothing for a moment (its app is being made anew) keeps what it had.
        """
        if old is None or old.identity("") != self.identity(""):
            return self
        known = {n: at for n, at in old.since.items() if n in self.since}
        since = {**self.since, **known} if self.ports else old.since
        return replace(self, since=since) if since != self.since else self

    def captures(self, port: int) -> bool:
        """Whether connections to the port go through the proxy, by the labels that `inject` gives
        the workload.
        """
        # As Istio reads them: what is excluded stays so, even if it is included, too.
        excluded = self.labels.get(f"{TRAFFIC_LABELS}excludeInboundPorts", "").split(
            ","
        )
        included = self.labels.get(f"{TRAFFIC_LABELS}includeInboundPorts", "*").split(
            ","
        )
        return str(port) not in excluded and ("*" in included or str(port) in included)

    def identity(self, trust_domain: str) -> Identity:
        """Who the workload is: what its certificate says, and peers and policies are told."""
        return Identity(
            trust_domain, self.namespace, account_of(self.service_account, self.service)
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, the form kept in Consul's KV."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {
            "labels": dict(self.labels),
            "since": dict(self.since),
            "protocol_rules": dict(self.protocol_rules),
            "kind": self.kind.value,
            "mode": self.mode.value,
            "ports": [
                {"service": p.service, "port": p.port, "protocol": p.protocol}
                for p in self.ports
            ],
            "aliases": list(self.aliases),
            "published": list(self.published),
            "probed": list(self.probed),
            "bridges": list(self.bridges),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Workload:
        """The workload written by `to_dict`; unknown keys are ignored, so that versions can be
        mixed.
        """
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}

        return cls(
            **known
            | {
                "kind": WorkloadKind(known.get("kind", WorkloadKind.SIDECAR)),
                "mode": ProxyMode(known.get("mode", ProxyMode.SIDECAR)),
                "ports": tuple(ServedPort(**port) for port in known.get("ports", ())),
                "aliases": tuple(known.get("aliases", ())),
                "published": tuple(known.get("published", ())),
                "bridges": tuple(known.get("bridges", ())),
                "probed": tuple(known.get("probed", ())),
            }
        )
