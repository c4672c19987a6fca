"""Kubernetes' own objects: deployments, injection, webhooks. Of use where files for both worlds are
kept together.

Source of the rules:
`pkg/config/analysis/analyzers/{deployment,injection,webhook,externalcontrolplane}` of Istio.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
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
from dockermesh.analysis.workloads import (
    PROXY_CONTAINER,
    containers,
    is_in_mesh,
    pod_template,
)
from dockermesh.config.findings import Finding

# Whose traffic is not captured, so an app under it would go around its proxy.
PROXY_UID = 1337
_MANAGED = "gateway.istio.io/managed"
_REVISION = "istio.io/rev"
_MUTATING = "istio-sidecar-injector"
_VALIDATING = ("istiod-default-validator", "istio-validator")


def user_ids(context: Context) -> Iterator[Finding]:
    """No app may run as the proxy's user."""
    for item in context.kubernetes("Pod", "Deployment"):
        # What Istio installs itself is not for users to change.
        is_istios = "istio" in item.labels or item.labels.get("release") == "istio"
        if not is_istios and PROXY_UID in _users(pod_template(item)):
            yield found(item, INVALID_UID)


def _users(template: Mapping[str, Any]) -> list[Any]:
    """Whom the pod, and each container that is not Istio's, runs as."""
    own = (PROXY_CONTAINER, "istio-operator")
    apps = (c for c in containers(template) if c.get("name") not in own)
    return [
        dig(part, "securityContext", "runAsUser")
        for part in (template.get("spec"), *apps)
    ]


def deployment_services(context: Context) -> Iterator[Finding]:
    """Services in front of one Deployment must agree on the protocol of a port, and on the port of
    a target.
    """
    # A Service without a selector has endpoints of its own, and no Deployment behind it.
    services = [s for s in context.services if _is_kubernetes(s) and s.selector]
    for item in context.kubernetes("Deployment"):
        # What Istio made for a Gateway of Kubernetes is Istio's own affair.
        is_generated = item.labels.get(_MANAGED) == "istio.io-mesh-controller"
        if is_generated or not is_in_mesh(item, context.namespaces):
            continue

        own = _in_front_of(item, services)
        yield from _protocols(item, own)
        yield from _targets(item, own)


def _in_front_of(
    deployment: AnalyzedObject, services: list[AnalyzedService]
) -> list[AnalyzedService]:
    """The services that lead to a Deployment's pods."""
    # Its pods have the template's labels, which need not be its own.
    labels = texts(dig(deployment.body, "spec", "template", "metadata", "labels"))
    near = (s for s in services if s.namespace == deployment.namespace)
    return [service for service in near if selects(service.selector or {}, labels)]


def _is_kubernetes(service: AnalyzedService) -> bool:
    return service.item is not None and service.item.kind == "Service"


def _protocols(
    item: AnalyzedObject, services: list[AnalyzedService]
) -> Iterator[Finding]:
    by_port: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for service in services:
        for port in service.ports:
            # Kubernetes' default.
            by_port[port.number][port.protocol or "TCP"].add(_name(service))
    for number, protocols in by_port.items():
        if len(protocols) > 1:
            names = sorted(name for group in protocols.values() for name in group)
            yield found(item, MULTIPLE_SERVICES, item.name, number, names)


def _targets(
    item: AnalyzedObject, services: list[AnalyzedService]
) -> Iterator[Finding]:
    by_target: dict[str, dict[int, str]] = defaultdict(dict)
    for service in services:
        for port in service.ports:
            # Without a target it is the port itself.
            target = (
                port.target_text
                if port.target_text not in ("", "0")
                else str(port.number)
            )
            by_target[target][port.number] = _name(service)
    for target, ports in by_target.items():
        if len(ports) > 1:
            yield found(
                item,
                CONFLICTING_PORTS,
                item.name,
                sorted(ports.values()),
                target,
                sorted(ports),
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
        if not item.name.startswith(
            _MUTATING if item.kind.startswith("Mutating") else _VALIDATING
        ):
            continue
        for index, webhook in enumerate(mappings(item.body.get("webhooks"))):
            url, path = (
                dig(webhook, "clientConfig", "url"),
                ("webhooks", index, "clientConfig"),
            )
            name = webhook.get("name") or f"#{index}"
            # With neither URL nor service the API server can call nobody.
            if url is None:
                if dig(webhook, "clientConfig", "service") is None:
                    yield found(
                        item, EXTERNAL_CONTROL_PLANE, "", name, "is blank", at=path
                    )
                continue

            host = _host(str(url))

            if not host:
                yield found(
                    item,
                    EXTERNAL_CONTROL_PLANE,
                    url,
                    name,
                    "is no URL with a host",
                    at=path,
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
    injectors = list(_injectors(context))
    yield from _overlaps(injectors)
    yield from _without_service(context, injectors)


@dataclass(frozen=True, slots=True)
class _Injector:
    """One webhook of a configuration that injects sidecars."""

    item: AnalyzedObject
    index: int
    webhook: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.item.name}/{self.webhook.get('name')}"

    @property
    def key(self) -> tuple[str, int]:
        return self.item.name, self.index


def _injectors(context: Context) -> Iterator[_Injector]:
    for item in context.kubernetes("MutatingWebhookConfiguration"):
        listed = list(mappings(item.body.get("webhooks")))
        # Other products' webhooks neither name a revision nor end with Istio's domain.
        is_istios = any(
            str(webhook.get("name")).endswith("istio.io") for webhook in listed
        )
        if is_istios or _revisions(item):
            for index, webhook in enumerate(listed):
                yield _Injector(item, index, webhook)


def _overlaps(injectors: list[_Injector]) -> Iterator[Finding]:
    """Webhooks that select the same pod. All combinations of the labels that injection knows are
    tried, as Istio does: selectors are too rich to be compared with each other.
    """
    others: dict[tuple[str, int], set[str]] = {}
    for namespace, labels in _label_sets(injectors):
        hits = [i for i in injectors if _matches(i.webhook, namespace, labels)]
        titles = {injector.title for injector in hits}
        for injector in hits if len(hits) > 1 else ():
            others.setdefault(injector.key, set()).update(titles - {injector.title})

    by_key = {injector.key: injector for injector in injectors}
    for key, titles in others.items():
        text = f"overlaps with {', '.join(sorted(titles))}: pods may be injected twice"
        yield found(by_key[key].item, INVALID_WEBHOOK, text, at=("webhooks", key[1]))


def _label_sets(
    injectors: list[_Injector],
) -> Iterator[tuple[Mapping[str, str], Mapping[str, str]]]:
    """Labels of a namespace and of a pod in it."""
    revisions = sorted({r for injector in injectors for r in _revisions(injector.item)})
    namespaces = _permutations("istio-injection", ("enabled", "disabled"), revisions)
    pods = _permutations("sidecar.istio.io/inject", ("true", "false"), revisions)
    return product(namespaces, pods)


def _without_service(context: Context, injectors: list[_Injector]) -> Iterator[Finding]:
    known = {
        service.item.full_name
        for service in context.services
        if service.item is not None and service.item.kind == "Service"
    }
    for injector in injectors:
        # A webhook with a URL has no service; `external_control_plane` looks at those.
        service = dig(injector.webhook, "clientConfig", "service")
        name = f"{dig(service, 'namespace')}/{dig(service, 'name')}"
        if isinstance(service, Mapping) and name not in known:
            text = f"the injector's service {name} does not exist"
            path = ("webhooks", injector.index, "clientConfig")
            yield found(injector.item, INVALID_WEBHOOK, text, at=path)


def _matches(
    webhook: Mapping[str, Any], namespace: Mapping[str, str], labels: Mapping[str, str]
) -> bool:
    return label_selector_matches(
        webhook.get("namespaceSelector"), namespace
    ) and label_selector_matches(webhook.get("objectSelector"), labels)


def _permutations(
    key: str, values: tuple[str, ...], revisions: list[str]
) -> list[dict[str, str]]:
    plain: list[dict[str, str]] = [{}, *({key: value} for value in values)]
    return plain + [
        {**labels, _REVISION: revision} for revision in revisions for labels in plain
    ]


def _revisions(item: AnalyzedObject) -> set[str]:
    revisions = {item.labels[_REVISION]} if _REVISION in item.labels else set()
    for webhook in mappings(item.body.get("webhooks")):
        for key in ("namespaceSelector", "objectSelector"):
            selector = webhook.get(key)
            revision = texts(dig(selector, "matchLabels")).get(_REVISION)
            revisions |= {revision} if revision is not None else set()
            # Istio's own webhooks name their revision in an expression.
            for expression in mappings(dig(selector, "matchExpressions")):
                if expression.get("key") == _REVISION and isinstance(
                    expression.get("values"), list
                ):
                    revisions |= {str(value) for value in expression["values"]}
    return revisions
