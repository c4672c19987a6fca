"""What of valid resources has no effect, and why: an older one has it already, or what it needs is
not there.

Computed from the config alone, and only when somebody asks. The rules are those by which `index`,
`policy`, `delegates` and `peer_authentication` decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dockermesh.config.api.authorization_policy import Action, AuthorizationPolicy
from dockermesh.config.api.destination_rule import DestinationRule
from dockermesh.config.api.peer_authentication import PeerAuthentication
from dockermesh.config.api.proxy_config import ProxyConfig
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.findings import Reason, ResourceFinding
from dockermesh.translate.mesh.host_rules import resolve_host
from dockermesh.translate.mesh.index import (
    MESH_GATEWAY,
    ConfigIndex,
    resolve_provider,
)
from dockermesh.translate.mesh.settings import without_effect
from dockermesh.translate.mesh.visibility import Labels, as_labels, is_exported


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
        *_rival_authorizers(index),
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
    """Of Sidecars, of PeerAuthentications and of ProxyConfigs for the same workloads of a namespace
    the oldest counts.
    """
    owners: dict[object, Resource[Any]] = {}
    listed: tuple[Resource[Sidecar | PeerAuthentication | ProxyConfig], ...] = (
        *index.config.sidecars,
        *index.config.peer_authentications,
        *index.config.proxy_configs,
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


def _selected(spec: Sidecar | PeerAuthentication | ProxyConfig) -> Labels:
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

    for proxies in index.config.proxy_configs:
        if proxies.spec.image is not None:
            text = "spec.image: has no effect: all proxies have the mesh's image"
            yield ResourceFinding(str(proxies), Reason.NOT_TRANSLATED, text)

    for resource in index.config.others:
        yield ResourceFinding(
            str(resource),
            Reason.NOT_TRANSLATED,
            f"spec: {resource.kind} is kept, but has no effect yet",
        )


def _providers(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """CUSTOM policies whose authorizer, or its service, is not known let nobody through."""
    services = {
        provider.name: asked.service
        for provider in index.settings.extension_providers
        if (asked := provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http)
    }
    for resource in index.config.authorization_policies:
        provider = resource.spec.provider
        if resource.spec.action is not Action.CUSTOM or provider is None:
            continue
        missing = _missing_of(provider.name, services, index)
        if missing:
            text = f"spec.provider.name: {missing}; what matches is refused"
            yield ResourceFinding(str(resource), Reason.REFERENCE_NOT_FOUND, text)


def _missing_of(name: str, services: Mapping[str, str], index: ConfigIndex) -> str:
    """What is not there of the authorizer with this name."""
    service = services.get(name)
    if service is None:
        return f"MeshConfig has no external authorizer {name}"
    root = index.settings.root_namespace
    if resolve_provider(index.names, service, root).lower() not in index.names:
        return f"the mesh has no service {service}, the external authorizer {name}"
    return ""


def _rival_authorizers(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """CUSTOM policies of one workload that name several authorizers deny what any would judge."""
    custom = [
        resource
        for resource in index.config.authorization_policies
        if resource.spec.action is Action.CUSTOM
        and not resource.spec.target_ref
        and not resource.spec.target_refs
    ]
    root = index.settings.root_namespace
    for resource in custom:
        rival = next((o for o in custom if _are_rivals(resource, o, root)), None)
        if rival is not None:
            text = (
                f"spec.provider.name: {rival} names another authorizer for the same workloads;"
                " what either matches is refused"
            )
            yield ResourceFinding(str(resource), Reason.CONFLICTED, text)


def _are_rivals(
    one: Resource[AuthorizationPolicy], other: Resource[AuthorizationPolicy], root: str
) -> bool:
    names = {p.name for p in (one.spec.provider, other.spec.provider) if p is not None}
    if len(names) < 2 or not (
        one.namespace == other.namespace or root in (one.namespace, other.namespace)
    ):
        return False
    # All that the narrower one selects, the wider one selects, too.
    wanted, also = (_labels_of(policy) for policy in (one, other))
    return wanted.items() <= also.items() or also.items() <= wanted.items()


def _labels_of(policy: Resource[AuthorizationPolicy]) -> Mapping[str, str]:
    selector = policy.spec.selector
    return selector.match_labels if selector is not None else {}
