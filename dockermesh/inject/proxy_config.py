"""What the start of a service's proxy depends on: `proxy.istio.io/config` of the service,
ProxyConfig, and a MeshConfig's `defaultConfig`.

A ProxyConfig that selects the workload comes first, then the service's own label, the ProxyConfig
of its namespace, that of the root namespace, and the mesh's defaults; of each level the oldest
counts, and environments are joined. Source: Istio's *ProxyConfig* reference and
`pilot/pkg/model/proxy_config.go`.

Invariant: what cannot be read in a label is refused with its place, and what has no effect there is
named. Resources are judged where they are applied.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import yaml

from dockermesh.config.api.mesh_config import GatewayTopology, MeshConfig
from dockermesh.config.api.proxy_config import ProxyConfig
from dockermesh.config.decode import decode
from dockermesh.config.documents import read_document
from dockermesh.config.findings import Findings
from dockermesh.config.limits import parse_duration
from dockermesh.config.resource import Resource
from dockermesh.errors import InputError
from dockermesh.model.contract import SYSTEM_NAMESPACE
from dockermesh.model.workload import PROXY_CONFIG_LABEL

LABEL = PROXY_CONFIG_LABEL
"""Here a label of the Compose service."""
READ_KINDS = ("ProxyConfig", "MeshConfig")
"""The resources that say how proxies are started."""
ONE_PER_CPU = 0
_MOST = 1024
_LONGEST = timedelta(hours=1)
_HOLD = "holdApplicationUntilProxyStarts"


@dataclass(frozen=True, slots=True)
class ProxyStart:
    """How a proxy is started: `concurrency` is its number of threads, 0 one per CPU; `drain_s` how
    long it takes to close the connections of a listener that is replaced, in seconds; None is the
    mesh's default. `environment` is its own, and that of modules in it that ask for it. `ignored`
    are the keys of a label that have no effect.
    """

    concurrency: int | None = None
    drain_s: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def over(self, below: ProxyStart) -> ProxyStart:
        """This, and what is below where it says nothing."""
        return ProxyStart(
            below.concurrency if self.concurrency is None else self.concurrency,
            below.drain_s if self.drain_s is None else self.drain_s,
            {**below.environment, **self.environment},
            self.ignored,
        )


class ProxyDefaults:
    """What resources say of proxies' starts."""

    def __init__(self, documents: Iterable[Mapping[str, Any]]) -> None:
        read = [
            resource
            for document in documents
            if document.get("kind") in READ_KINDS
            for resource in read_document(document).resources
        ]
        # Oldest first; those that are not stored yet are the newest.
        read.sort(key=lambda r: (r.created or "9", r.name))
        meshes = [r.spec for r in read if isinstance(r.spec, MeshConfig)]
        self._mesh = _mesh_start(meshes[0]) if meshes else ProxyStart()
        self._root = (meshes[0].root_namespace if meshes else "") or SYSTEM_NAMESPACE
        self._configs = [r for r in read if isinstance(r.spec, ProxyConfig)]

    def start(
        self, namespace: str, labels: Mapping[str, str], own: ProxyStart
    ) -> ProxyStart:
        """How the proxy of a workload is started; `own` is what its label says."""
        namespaces = dict.fromkeys((namespace, self._root))
        made = self._selecting(namespace, labels).over(own)
        for wide in map(self._of_namespace, namespaces):
            made = made.over(wide)
        made = made.over(self._mesh)
        return ProxyStart(made.concurrency, made.drain_s, made.environment, own.ignored)

    def _selecting(self, namespace: str, labels: Mapping[str, str]) -> ProxyStart:
        found = (
            r
            for r in self._configs
            if r.namespace == namespace
            and not is_wide(r.spec)
            and r.spec.selector is not None
            and labels.items() >= r.spec.selector.match_labels.items()
        )
        return _start(next(found, None))

    def _of_namespace(self, namespace: str) -> ProxyStart:
        found = (
            r for r in self._configs if r.namespace == namespace and is_wide(r.spec)
        )
        return _start(next(found, None))


def is_wide(spec: ProxyConfig) -> bool:
    """Whether it is for a whole namespace, or in the root namespace for the mesh."""
    return spec.selector is None or not spec.selector.match_labels


def _start(resource: Resource[ProxyConfig] | None) -> ProxyStart:
    if resource is None:
        return ProxyStart()
    spec = resource.spec
    return ProxyStart(spec.concurrency, environment=spec.environment_variables)


def _mesh_start(config: MeshConfig) -> ProxyStart:
    given = config.default_config
    if given is None:
        return ProxyStart()
    drain = given.drain_duration
    return ProxyStart(
        given.concurrency,
        int(drain.total_seconds()) if drain is not None else None,
        given.proxy_metadata,
    )


def proxy_start(labels: Mapping[str, str], place: str) -> ProxyStart:
    """What a service's label says. Raises InputError."""
    return read_start(labels.get(LABEL, ""), f"{place}.labels.{LABEL}")


def read_start(
    given: Any, where: str, also: frozenset[str] = frozenset()
) -> ProxyStart:
    """What text or a mapping says of a proxy's start; `also` are keys that others read. Raises
    InputError.
    """
    found = _mapping(given, where)
    ignored = (key for key in _without_effect(found) if key not in also)
    return ProxyStart(
        _concurrency(found.get("concurrency"), where),
        _drain(found.get("drainDuration"), where),
        _environment(found.get("proxyMetadata"), where),
        tuple(sorted(ignored)),
    )


def _mapping(given: Any, where: str) -> Mapping[Any, Any]:
    if isinstance(given, str) and not given.strip():
        return {}
    try:
        found = yaml.safe_load(given) if isinstance(given, str) else given
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(
            "is not YAML", where=where, fix="write concurrency: 2"
        ) from error
    if not isinstance(found, Mapping):
        raise InputError("must be a mapping", where=where, fix="write concurrency: 2")
    return found


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The same of a project's gateway; `label` is what the control plane is to know of it."""

    start: ProxyStart = field(default_factory=ProxyStart)
    label: str = ""


def gateway_config(given: Any, where: str) -> GatewayConfig:
    """What text or a mapping says of the gateway's proxy, and of what stands in front of it. Raises
    InputError.
    """
    start = read_start(given, where, also=frozenset({_TOPOLOGY}))
    topology = _mapping(given, where).get(_TOPOLOGY)
    if topology is None:
        return GatewayConfig(start)
    findings = Findings()
    decode(GatewayTopology, topology, findings.at(_TOPOLOGY))
    for finding in findings.found:
        raise InputError(
            f"{finding.field}: {finding.message}",
            where=where,
            fix="write gatewayTopology: {numTrustedProxies: 1}",
        )
    return GatewayConfig(start, json.dumps({_TOPOLOGY: topology}, sort_keys=True))


_TOPOLOGY = "gatewayTopology"
_READ = frozenset({"concurrency", "drainDuration", "proxyMetadata", _HOLD})


def _without_effect(found: Mapping[Any, Any]) -> Iterable[str]:
    yield from (str(key) for key in found if key not in _READ)
    # Apps always wait for their proxies.
    if found.get(_HOLD, True) is not True:
        yield f"{_HOLD}: {str(found[_HOLD]).lower()}"


def _concurrency(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _MOST:
        raise InputError(
            f"concurrency: {value!r} is no number of threads",
            where=where,
            fix=f"write 0 (one per CPU) to {_MOST}",
        )
    return value


def _drain(value: Any, where: str) -> int | None:
    if value is None:
        return None
    found = parse_duration(str(value))
    if isinstance(found, str) or not timedelta(seconds=1) <= found <= _LONGEST:
        raise InputError(
            f"drainDuration: {value!r} is not from 1s to 1h",
            where=where,
            fix="write drainDuration: 45s",
        )
    return int(found.total_seconds())


def _environment(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and k and "=" not in k and isinstance(v, str | int | float)
        for k, v in value.items()
    ):
        raise InputError(
            "proxyMetadata: must map names to texts",
            where=where,
            fix='write proxyMetadata: {NAME: "value"}',
        )
    return {
        k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()
    }
