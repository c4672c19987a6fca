"""What of valid resources has no effect, and why: an older one has it already, or what it needs is
not there.

Computed from the config alone, and only when somebody asks. The rules are those by which `index`,
`policy`, `delegates` and `peer_authentication` decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dockermesh.config.api.authorization_policy import Action
from dockermesh.config.api.destination_rule import DestinationRule
from dockermesh.config.api.peer_authentication import PeerAuthentication
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.index import MESH_GATEWAY, ConfigIndex, resolve_host
from dockermesh.translate.mesh.settings import without_effect
from dockermesh.translate.mesh.visibility import Labels, as_labels, is_exported


class Reason(StrEnum):
    """Why something has no effect, as conditions of resources say it."""

    CONFLICTED = "Conflicted"
    REFERENCE_NOT_FOUND = "ReferenceNotFound"
    NOT_TRANSLATED = "NotTranslated"


@dataclass(frozen=True, slots=True)
class ResourceFinding:
    """What has no effect, in the resource `Kind namespace/name`."""

    resource: str
    reason: Reason
    message: str


def findings_of_config(index: ConfigIndex) -> Mapping[str, tuple[ResourceFinding, ...]]:
    """All that can be told without knowing any proxy, by resource."""
    found: dict[str, list[ResourceFinding]] = defaultdict(list)
    for finding in (
        *_mesh_hosts(index),
        *_delegates(index),
        *_destination_rules(index),
        *_same_scope(index),
        *_settings(index),
        *_providers(index),
    ):
        found[finding.resource].append(finding)

    return {resource: tuple(findings) for resource, findings in found.items()}


def _mesh_hosts(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """Of several VirtualServices for one host only the oldest counts, for sidecars that see
    both.
    """
    holders: dict[str, list[Resource[VirtualService]]] = defaultdict(list)
    default = index.settings.virtual_service_export_to

    for resource in index.virtual_services:
        spec = resource.spec
        if spec.gateways and MESH_GATEWAY not in spec.gateways:
            continue

        for position, written in enumerate(spec.hosts):
            host = resolve_host(index.names, written, resource.namespace)
            older = next(
                (o for o in holders[host] if _are_seen_together(o, resource, default)),
                None,
            )

            if older is not None and older is not resource:
                yield ResourceFinding(
                    str(resource),
                    Reason.CONFLICTED,
                    f"spec.hosts[{position}]: sidecars route {written} as {older} says, which is"
                    " older",
                )

            holders[host].append(resource)


def _are_seen_together(
    one: Resource[Any], other: Resource[Any], default: tuple[str, ...]
) -> bool:
    """Whether some namespace sees both. The namespaces that count are those that one of the two
    names.
    """
    exports = [(r.spec.export_to or default, r.namespace) for r in (one, other)]
    # "" stands for the namespaces that nobody names.
    viewers = {
        "",
        one.namespace,
        other.namespace,
        *(name for export, _ in exports for name in export),
    }
    return any(
        all(is_exported(export, owner, viewer) for export, owner in exports)
        for viewer in viewers
    )


def _delegates(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """Rules that delegate to what is not there decide nothing."""
    by_name = {(r.namespace, r.name): r for r in index.config.virtual_services}
    for resource in index.config.virtual_services:
        for position, rule in enumerate(resource.spec.http):
            if rule.delegate is None:
                continue
            where = f"spec.http[{position}].delegate"
            key = (rule.delegate.namespace or resource.namespace, rule.delegate.name)
            found = by_name.get(key)
            name = "VirtualService {}/{}".format(*key)

            if not resource.spec.hosts:
                why = "a delegate cannot delegate further; the rule has no effect"
            elif found is None:
                why = f"there is no {name}; the rule has no effect"
            elif found.spec.hosts:
                why = f"{name} has hosts, so it is no delegate; the rule has no effect"
            elif not is_exported(
                found.spec.export_to, found.namespace, resource.namespace
            ):
                why = (
                    f"{name} is not exported to namespace {resource.namespace}; the rule has no"
                    " effect"
                )
            else:
                continue

            yield ResourceFinding(
                str(resource), Reason.REFERENCE_NOT_FOUND, f"{where}: {why}"
            )


def _destination_rules(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """Of one host's rules the oldest policy and the oldest subset of a name count."""
    groups: dict[object, list[Resource[DestinationRule]]] = defaultdict(list)
    for resource in index.config.destination_rules:
        spec = resource.spec
        host = resolve_host(index.names, spec.host, resource.namespace)
        selector = spec.workload_selector
        labels = as_labels(selector.match_labels) if selector is not None else ()
        groups[resource.namespace, host, labels, tuple(sorted(spec.export_to))].append(
            resource
        )

    for rules in groups.values():
        if len(rules) > 1:
            yield from _merged(rules)


def _merged(rules: Iterable[Resource[DestinationRule]]) -> Iterator[ResourceFinding]:
    policy: Resource[DestinationRule] | None = None
    subsets: dict[str, Resource[DestinationRule]] = {}

    for resource in rules:
        spec = resource.spec
        if spec.traffic_policy is not None and policy is not None:
            text = (
                f"spec.trafficPolicy: {spec.host} has that of {policy}, which is older"
            )
            yield ResourceFinding(str(resource), Reason.CONFLICTED, text)
        elif spec.traffic_policy is not None:
            policy = resource

        for position, subset in enumerate(spec.subsets):
            older = subsets.setdefault(subset.name, resource)
            if older is not resource:
                text = (
                    f"spec.subsets[{position}]: {older}, which is older, "
                    f"has a subset {subset.name}"
                )
                yield ResourceFinding(str(resource), Reason.CONFLICTED, text)


def _same_scope(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """Of Sidecars, and of PeerAuthentications, for the same workloads of a namespace the oldest
    counts.
    """
    owners: dict[object, Resource[Any]] = {}
    listed: tuple[Resource[Sidecar | PeerAuthentication], ...] = (
        *index.config.sidecars,
        *index.config.peer_authentications,
    )

    for resource in listed:
        older = owners.setdefault(
            (resource.kind, resource.namespace, _selected(resource.spec)), resource
        )
        if older is not resource:
            yield ResourceFinding(
                str(resource),
                Reason.CONFLICTED,
                f"spec: {older}, which is older, is for the same workloads",
            )


def _selected(spec: Sidecar | PeerAuthentication) -> Labels:
    if isinstance(spec, Sidecar):
        return (
            as_labels(spec.workload_selector.labels)
            if spec.workload_selector is not None
            else ()
        )
    return as_labels(spec.selector.match_labels) if spec.selector is not None else ()


def _settings(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """The oldest MeshConfig counts, as far as its settings are read; some kinds are only kept."""
    for position, resource in enumerate(index.config.mesh_configs):
        if position > 0:
            text = (
                f"spec: {index.config.mesh_configs[0]}, which is older, holds the settings of the"
                " mesh"
            )
            yield ResourceFinding(str(resource), Reason.CONFLICTED, text)
            continue

        for field in without_effect(resource.spec):
            yield ResourceFinding(
                str(resource), Reason.NOT_TRANSLATED, f"spec.{field}: has no effect yet"
            )

    for resource in index.config.others:
        yield ResourceFinding(
            str(resource),
            Reason.NOT_TRANSLATED,
            f"spec: {resource.kind} is kept, but has no effect yet",
        )


def _providers(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """CUSTOM policies whose authorizer is not known let nobody through."""
    known = {
        provider.name
        for provider in index.settings.extension_providers
        if provider.envoy_ext_authz_grpc is not None
        or provider.envoy_ext_authz_http is not None
    }
    for resource in index.config.authorization_policies:
        provider = resource.spec.provider
        if (
            resource.spec.action is Action.CUSTOM
            and provider is not None
            and provider.name not in known
        ):
            text = (
                f"spec.provider.name: MeshConfig has no external authorizer {provider.name}; what"
                " matches is refused"
            )
            yield ResourceFinding(str(resource), Reason.REFERENCE_NOT_FOUND, text)
