"""Kubernetes' own objects: deployments, injection, webhooks. Of use where files for both worlds are
kept together.

Source of the rules:
`pkg/config/analysis/analyzers/{deployment,injection,webhook,externalcontrolplane}` of Istio.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    CONFLICTING_PORTS,
    EXTERNAL_CONTROL_PLANE,
    EXTERNAL_CONTROL_PLANE_IP,
    INVALID_UID,
    INVALID_WEBHOOK,
    MULTIPLE_SERVICES,
)
from dockermesh.analysis.objects import (
    AnalyzedObject,
    dig,
    label_selector_matches,
    mappings,
    selects,
    texts,
)
from dockermesh.analysis.services import AnalyzedService
from dockermesh.analysis.workloads import PROXY_CONTAINER, containers, is_in_mesh, pod_template
from dockermesh.config.findings import Finding

PROXY_UID = 1337
_MANAGED = "gateway.istio.io/managed"
_REVISION = "istio.io/rev"
_MUTATING = "istio-sidecar-injector"
_VALIDATING = ("istiod-default-validator", "istio-validator")


def user_ids(context: Context) -> Iterator[Finding]:
    """No app may run as the proxy's user."""
    for item in context.kubernetes("Pod", "Deployment"):
        if "istio" in item.labels or item.labels.get("release") == "istio":
            continue
        template = pod_template(item)
        apps = [
            c
            for c in containers(template)
            if c.get("name") not in (PROXY_CONTAINER, "istio-operator")
        ]
        if any(
            dig(part, "securityContext", "runAsUser") == PROXY_UID
            for part in (template.get("spec"), *apps)
        ):
            yield found(item, INVALID_UID)


def deployment_services(context: Context) -> Iterator[Finding]:
    """Services in front of one Deployment must agree on the protocol of a port, and on the port of
    a target.
    """
    services = [
        s
        for s in context.services
        if s.item is not None and s.item.kind == "Service" and s.selector
    ]
    for item in context.kubernetes("Deployment"):
        if item.labels.get(_MANAGED) == "istio.io-mesh-controller" or not is_in_mesh(
            item, context.namespaces
        ):
            continue
        labels = texts(dig(item.body, "spec", "template", "metadata", "labels"))
        own = [
            s
            for s in services
            if s.namespace == item.namespace and selects(s.selector or {}, labels)
        ]
        yield from _protocols(item, own)
        yield from _targets(item, own)


def _protocols(item: AnalyzedObject, services: list[AnalyzedService]) -> Iterator[Finding]:
    by_port: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for service in services:
        for port in service.ports:
            by_port[port.number][port.protocol or "TCP"].add(_name(service))
    for number, protocols in by_port.items():
        if len(protocols) > 1:
            names = sorted(name for group in protocols.values() for name in group)
            yield found(item, MULTIPLE_SERVICES, item.name, number, names)


def _targets(item: AnalyzedObject, services: list[AnalyzedService]) -> Iterator[Finding]:
    by_target: dict[str, dict[int, str]] = defaultdict(dict)
    for service in services:
        for port in service.ports:
            target = port.target_text if port.target_text not in ("", "0") else str(port.number)
            by_target[target][port.number] = _name(service)
    for target, ports in by_target.items():
        if len(ports) > 1:
            yield found(
                item, CONFLICTING_PORTS, item.name, sorted(ports.values()), target, sorted(ports)
            )


def _name(service: AnalyzedService) -> str:
    return service.item.full_name if service.item is not None else service.hosts[0]


def external_control_plane(context: Context) -> Iterator[Finding]:
    """Webhooks that lead to istiod elsewhere need a host name in their URL. Names are not looked
    up.
    """
    for item in context.kubernetes(
        "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"
    ):
        if not item.name.startswith(_MUTATING if item.kind.startswith("Mutating") else _VALIDATING):
            continue
        for index, webhook in enumerate(mappings(item.body.get("webhooks"))):
            url, path = dig(webhook, "clientConfig", "url"), ("webhooks", index, "clientConfig")
            name = webhook.get("name") or f"#{index}"
            if url is None:
                if dig(webhook, "clientConfig", "service") is None:
                    yield found(item, EXTERNAL_CONTROL_PLANE, "", name, "is blank", at=path)
                continue
            host = _host(str(url))
            if not host:
                yield found(
                    item, EXTERNAL_CONTROL_PLANE, url, name, "is no URL with a host", at=path
                )
            elif _is_address(host):
                yield found(item, EXTERNAL_CONTROL_PLANE_IP, url, name, at=path)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def webhooks(context: Context) -> Iterator[Finding]:
    """Exactly one injection webhook may select a pod, and its service must exist."""
    found_webhooks = [
        (item, index, webhook)
        for item in context.kubernetes("MutatingWebhookConfiguration")
        if _revisions(item)
        or any(str(w.get("name")).endswith("istio.io") for w in mappings(item.body.get("webhooks")))
        for index, webhook in enumerate(mappings(item.body.get("webhooks")))
    ]
    revisions = sorted({r for item, _, _ in found_webhooks for r in _revisions(item)})
    overlaps: dict[tuple[str, int], tuple[AnalyzedObject, int, set[str]]] = {}
    for namespace in _permutations("istio-injection", ("enabled", "disabled"), revisions):
        for labels in _permutations("sidecar.istio.io/inject", ("true", "false"), revisions):
            hits = [entry for entry in found_webhooks if _matches(entry[2], namespace, labels)]
            if len(hits) > 1:
                names = {_title(item, webhook) for item, _, webhook in hits}
                for item, index, webhook in hits:
                    known = overlaps.setdefault((item.name, index), (item, index, set()))
                    known[2].update(names - {_title(item, webhook)})
    for item, index, others in overlaps.values():
        text = f"overlaps with {', '.join(sorted(others))}: pods may be injected twice"
        yield found(item, INVALID_WEBHOOK, text, at=("webhooks", index))
    services = {
        s.item.full_name
        for s in context.services
        if s.item is not None and s.item.kind == "Service"
    }
    for item, index, webhook in found_webhooks:
        service = dig(webhook, "clientConfig", "service")
        name = f"{dig(service, 'namespace')}/{dig(service, 'name')}"
        if isinstance(service, Mapping) and name not in services:
            text = f"the injector's service {name} does not exist"
            yield found(item, INVALID_WEBHOOK, text, at=("webhooks", index, "clientConfig"))


def _title(item: AnalyzedObject, webhook: Mapping[str, Any]) -> str:
    return f"{item.name}/{webhook.get('name')}"


def _matches(
    webhook: Mapping[str, Any], namespace: Mapping[str, str], labels: Mapping[str, str]
) -> bool:
    return label_selector_matches(
        webhook.get("namespaceSelector"), namespace
    ) and label_selector_matches(webhook.get("objectSelector"), labels)


def _permutations(key: str, values: tuple[str, ...], revisions: list[str]) -> list[dict[str, str]]:
    plain: list[dict[str, str]] = [{}, *({key: value} for value in values)]
    return plain + [{**labels, _REVISION: revision} for revision in revisions for labels in plain]


def _revisions(item: AnalyzedObject) -> set[str]:
    revisions = {item.labels[_REVISION]} if _REVISION in item.labels else set()
    for webhook in mappings(item.body.get("webhooks")):
        for key in ("namespaceSelector", "objectSelector"):
            selector = webhook.get(key)
            revision = texts(dig(selector, "matchLabels")).get(_REVISION)
            revisions |= {revision} if revision is not None else set()
            for expression in mappings(dig(selector, "matchExpressions")):
                if expression.get("key") == _REVISION and isinstance(
                    expression.get("values"), list
                ):
                    revisions |= {str(value) for value in expression["values"]}
    return revisions
