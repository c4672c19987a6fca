"""Gateways: their workloads, ports, hosts and certificates.

Source of the rules: `pkg/config/analysis/analyzers/gateway` of Istio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    DUPLICATE_CERTIFICATE,
    GATEWAY_CONFLICT,
    GATEWAY_PORT,
    INVALID_CREDENTIAL,
    NOT_FOUND,
)
from dockermesh.analysis.objects import AnalyzedObject, selector_text, selects
from dockermesh.analysis.services import AnalyzedService
from dockermesh.analysis.workloads import AnalyzedWorkload
from dockermesh.config.api.gateway import Server, ServerTlsSettings
from dockermesh.config.findings import Finding, Path
from dockermesh.config.resource import DEFAULT_NAMESPACE

_SELECTOR = ("spec", "selector")
_Place = tuple[int, str, str]


def workloads_and_ports(context: Context) -> Iterator[Finding]:
    """Some workload must serve the Gateway, and a service in front of it have its ports."""
    for item in context.istio("Gateway"):
        selector = item.spec.selector
        workloads = context.workloads_matching(selector)
        if not workloads:
            yield found(
                item, NOT_FOUND, "selector", selector_text(selector), at=_SELECTOR
            )
            continue

        reachable: set[int] = set()
        known = [_reachable_ports(context, workload) for workload in workloads]
        reachable.update(*(ports for ports in known if ports is not None))
        for index, server in enumerate(item.spec.servers if None not in known else ()):
            number = _number(server)
            if number and number not in reachable:
                path = ("spec", "servers", index, "port")
                yield found(
                    item, GATEWAY_PORT, number, selector_text(selector), at=path
                )


def _reachable_ports(context: Context, workload: AnalyzedWorkload) -> set[int] | None:
    """The ports at which services lead to a workload, by their own number or their target's; None
    if unknown.
    """
    if workload.gateway_ports is not None:
        return set(workload.gateway_ports)
    # How a container is reached is between Compose and its host.
    if not workload.is_kubernetes:
        return None

    ports = (
        port for service in _in_front_of(context, workload) for port in service.ports
    )
    numbers = (
        (p.number, p.target or p.number) for p in ports if p.protocol in ("", "TCP")
    )
    return {number for pair in numbers for number in pair}


def _in_front_of(
    context: Context, workload: AnalyzedWorkload
) -> Iterator[AnalyzedService]:
    """The Services of Kubernetes that select a workload. One without selector selects nothing."""
    for service in context.services:
        is_kubernetes = service.item is not None and service.item.kind == "Service"
        is_near = is_kubernetes and service.namespace == workload.namespace
        if is_near and service.selector and selects(service.selector, workload.labels):
            yield service


def conflicts(context: Context) -> Iterator[Finding]:
    """Two Gateways of the same workloads must not have the same host at the same port and
    address.
    """
    holders: dict[_Place, dict[str, AnalyzedObject]] = defaultdict(dict)
    for item in context.istio("Gateway"):
        for place in (
            place for server in item.spec.servers for place in _places(server)
        ):
            holders[place][item.full_name] = item

    for item in context.istio("Gateway"):
        for index, server in enumerate(item.spec.servers):
            names = _rivals(
                context, item, [holders[place] for place in _places(server)]
            )
            if names:
                yield found(
                    item,
                    GATEWAY_CONFLICT,
                    ",".join(names),
                    selector_text(item.spec.selector),
                    _number(server),
                    ",".join(server.hosts),
                    at=("spec", "servers", index),
                )


def _rivals(
    context: Context, item: AnalyzedObject, holders: list[dict[str, AnalyzedObject]]
) -> list[str]:
    """The other Gateways at the same places, as far as the same workloads serve them."""
    others = {name: other for place in holders for name, other in place.items()}
    others.pop(item.full_name, None)
    return sorted(
        name for name, other in others.items() if _share_workloads(context, item, other)
    )


def _places(server: Server) -> list[_Place]:
    return [(_number(server), server.bind, host) for host in server.hosts]


def _share_workloads(
    context: Context, one: AnalyzedObject, other: AnalyzedObject
) -> bool:
    # Even if no such workload is known.
    if one.spec.selector == other.spec.selector:
        return True
    if any(
        # A label that both ask for with different values keeps them apart.
        other.spec.selector.get(key, value) != value
        for key, value in one.spec.selector.items()
    ):
        return False
    return bool(
        context.workloads_matching({**one.spec.selector, **other.spec.selector})
    )


def _number(server: Server) -> int:
    return server.port.number if server.port is not None else 0


def duplicate_certificates(context: Context) -> Iterator[Finding]:
    """A certificate that two Gateways of the same workloads present."""
    listed = list(context.istio("Gateway"))
    for item in listed:
        for other in listed:
            # Clients reuse an HTTP/2 connection for every host of its certificate.
            if other is item or not selects(item.spec.selector, other.spec.selector):
                continue
            if any(
                _same_certificate(s.tls, o.tls)
                for s in item.spec.servers
                for o in other.spec.servers
            ):
                yield found(
                    item, DUPLICATE_CERTIFICATE, [item.full_name, other.full_name]
                )


def _same_certificate(
    one: ServerTlsSettings | None, other: ServerTlsSettings | None
) -> bool:
    if one is None or other is None:
        return False
    # A Secret takes the place of files.
    if one.credential_name or other.credential_name:
        return one.credential_name == other.credential_name
    if not (one.server_certificate and one.private_key):
        return False
    return (one.server_certificate, one.private_key) == (
        other.server_certificate,
        other.private_key,
    )


def credentials(context: Context) -> Iterator[Finding]:
    """Secrets that Gateways name must be in the namespace of the workload, and hold a valid
    certificate.

    Checked only where Secrets are described at all: files may leave them out.
    """
    secrets = {item.full_name: item for item in context.kubernetes("Secret")}
    is_told = bool(secrets) or context.with_secrets
    for item in context.istio("Gateway") if is_told else ():
        workloads = context.workloads_matching(item.spec.selector)
        if not workloads:
            continue

        namespace = workloads[0].namespace
        # Our gateways look in one more namespace than Istio's.
        places = [namespace, *([DEFAULT_NAMESPACE] if context.is_live else [])]
        for path, name in _credentials(item):
            listed = (secrets.get(f"{place}/{name}") for place in places)
            secret = next((s for s in listed if s is not None), None)
            if secret is None:
                yield found(item, NOT_FOUND, "credentialName", name, at=path)
            elif not _is_valid(secret):
                yield found(item, INVALID_CREDENTIAL, item.name, namespace, at=path)


def _credentials(item: AnalyzedObject) -> Iterator[tuple[Path, str]]:
    """The Secrets that a Gateway names, each with its place."""
    for index, server in enumerate(item.spec.servers):
        if server.tls is None:
            continue
        at = ("spec", "servers", index, "tls")
        if server.tls.credential_name:
            yield (*at, "credentialName"), server.tls.credential_name
        for number, name in enumerate(server.tls.credential_names):
            yield (*at, "credentialNames", number), name


def _is_valid(secret: AnalyzedObject) -> bool:
    from dockermesh.analysis.certificates import holds_certificate

    return holds_certificate(secret.body)
