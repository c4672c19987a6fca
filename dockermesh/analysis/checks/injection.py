"""Injection of sidecars by Istio's webhook. Source: `pkg/config/analysis/analyzers/injection` of
Istio.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from dockermesh.analysis.context import ROOT_NAMESPACE, Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    AUTO_IMAGE_ERROR,
    AUTO_IMAGE_WARNING,
    INJECTED_BY_DEFAULT,
    INJECTION_LABELS,
    NAMESPACE_NOT_INJECTED,
    POD_MISSING_PROXY,
    PROXY_IMAGES,
)
from dockermesh.analysis.objects import (
    AnalyzedObject,
    dig,
    label_selector_matches,
    mappings,
    selects,
    texts,
)
from dockermesh.analysis.workloads import (
    INJECT,
    INJECTION,
    PROXY_CONTAINER,
    containers,
    pod_template,
)
from dockermesh.config.findings import Finding

_REVISION = "istio.io/rev"
_MODE = "istio.io/dataplane-mode"
_INJECTOR = "istio-sidecar-injector"


def namespaces_and_pods(context: Context) -> Iterator[Finding]:
    """Namespaces should say whether they are injected; pods of injected ones should have a
    proxy.
    """
    for item in context.kubernetes("Namespace"):
        # Istio's own namespace is left alone: its pods are not meant to have sidecars.
        if item.name != ROOT_NAMESPACE:
            yield from _namespace(context, item)

    for pod in context.kubernetes("Pod"):
        namespace = context.namespaces.get(pod.namespace)
        if (
            namespace is None
            or namespace.name == ROOT_NAMESPACE
            or not _is_injected(namespace)
        ):
            continue
        if _should_have_proxy(pod) and not _proxy_images(pod):
            yield found(pod, POD_MISSING_PROXY, pod.full_name)


def _namespace(context: Context, item: AnalyzedObject) -> Iterator[Finding]:
    given = _injection_labels(item.labels)
    if len(given) > 1:
        yield found(item, INJECTION_LABELS, ", ".join(given))

    is_ambient = item.labels.get(_MODE) == "ambient"
    if is_ambient or item.labels.get(INJECTION) or _REVISION in item.labels:
        return
    if _is_default(context):
        yield found(item, INJECTED_BY_DEFAULT)
    else:
        yield found(item, NAMESPACE_NOT_INJECTED, item.name)


def _is_injected(namespace: AnalyzedObject) -> bool:
    """Whether its labels ask for sidecars."""
    labels = namespace.labels
    is_asked = _REVISION in labels or labels.get(INJECTION) == "enabled"
    return is_asked and labels.get(_MODE) != "ambient"


def _injection_labels(labels: Mapping[str, str]) -> list[str]:
    """The labels of a namespace that decide on injection; more than one contradict each other."""
    legacy = labels.get(INJECTION)
    given = [f"{INJECTION}={legacy}"] if legacy is not None else []
    # `istio-injection=disabled` beside a revision is a way to move a namespace over.
    if legacy in (None, "enabled"):
        given += [f"{key}={labels[key]}" for key in (_REVISION, _MODE) if key in labels]
    return given


def _should_have_proxy(pod: AnalyzedObject) -> bool:
    # In the host's network capture rules would be the host's: such a pod is never injected.
    wanted = pod.labels.get(INJECT, pod.annotations.get(INJECT, ""))
    return (
        wanted.lower() != "false" and dig(pod.body, "spec", "hostNetwork") is not True
    )


def _proxy_images(pod: AnalyzedObject) -> list[str]:
    listed = containers(pod.body, with_init=True)
    return [
        str(c["image"])
        for c in listed
        if c.get("name") == PROXY_CONTAINER and c.get("image")
    ]


def _values(context: Context, revision: str) -> Any:
    """The injector's settings for a revision; None without an injector."""
    # A canary has an injector of its own, with the revision in its name.
    name = _INJECTOR if revision in ("", "default") else f"{_INJECTOR}-{revision}"
    for item in context.kubernetes("ConfigMap"):
        text = dig(item.body, "data", "values")
        if item.name == name and isinstance(text, str):
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return None
    return None


def _is_default(context: Context) -> bool:
    """Whether namespaces that say nothing are injected."""
    values = _values(context, "")
    return dig(values, "sidecarInjectorWebhook", "enableNamespacesByDefault") is True


def proxy_images(context: Context) -> Iterator[Finding]:
    """Running proxies should have the image that injection would give them now."""
    outdated: dict[str, list[str]] = defaultdict(list)
    for pod in context.kubernetes("Pod"):
        namespace = context.namespaces.get(pod.namespace)
        # An image that the pod chose itself is nobody's mistake.
        if namespace is not None and not pod.annotations.get(
            "sidecar.istio.io/proxyImage"
        ):
            outdated[pod.namespace] += [
                pod.name for _ in _outdated(context, pod, namespace)
            ]

    for name, pods in outdated.items():
        if pods:
            yield found(context.namespaces[name], PROXY_IMAGES, pods)


def _outdated(
    context: Context, pod: AnalyzedObject, namespace: AnalyzedObject
) -> list[str]:
    """The images of the pod's proxies that injection would not give it."""
    revision = namespace.labels.get(_REVISION)
    if revision is None and namespace.labels.get(INJECTION) != "enabled":
        return []
    wanted = _wanted_image(_values(context, revision or ""))
    if not wanted:
        return []

    accepted = {wanted, f"{wanted}-{_image_type(context, pod)}"}
    return [image for image in _proxy_images(pod) if image not in accepted]


def _wanted_image(values: Any) -> str:
    settings = dig(values, "global")
    image = dig(settings, "proxy", "image")
    if not isinstance(image, str):
        return ""
    # A name without slash is completed by the hub and the tag of the installation.
    return (
        image
        if "/" in image
        else f"{dig(settings, 'hub')}/{image}:{dig(settings, 'tag')}"
    )


def _image_type(context: Context, pod: AnalyzedObject) -> str:
    """The variant (`distroless`) that applies to a pod: its own, its ProxyConfig's, or the
    mesh's.
    """
    from dockermesh.config.loading import load_documents

    # The narrowest wins: the pod, its namespace, the root namespace, the mesh.
    own = load_documents(pod.annotations.get("proxy.istio.io/config", "")).documents
    chosen = dig(own[0].data, "image", "imageType") if own else None
    ranked: list[tuple[int, Any]] = []
    for item in context.istio("ProxyConfig"):
        selector = texts(dig(item.body, "spec", "selector", "matchLabels"))
        image = dig(item.body, "spec", "image", "imageType")
        if item.namespace in (pod.namespace, context.root_namespace) and selects(
            selector, pod.labels
        ):
            ranked.append(
                ((item.namespace == pod.namespace) * 2 + bool(selector), image)
            )

    ranked.append((-1, dig(context.mesh_config, "defaultConfig", "image", "imageType")))
    inherited = (
        image for _, image in sorted(ranked, key=lambda entry: -entry[0]) if image
    )
    return str(chosen or next(inherited, ""))


def auto_images(context: Context) -> Iterator[Finding]:
    """`image: auto` is for injection to replace."""
    for pod in context.kubernetes("Pod"):
        # A pod that runs has been injected already, or never will be.
        if _has_auto_image(pod.body):
            yield found(pod, AUTO_IMAGE_ERROR, "Pod", pod.name)

    webhooks = list(_webhooks(context))
    for item in context.kubernetes("Deployment"):
        template = pod_template(item)
        namespace = context.namespaces.get(item.namespace)
        space = namespace.labels if namespace is not None else {}
        labels = texts(dig(template, "metadata", "labels"))
        is_injected = any(_selects(webhook, space, labels) for webhook in webhooks)
        if _has_auto_image(template) and not is_injected:
            yield found(item, AUTO_IMAGE_WARNING, "Deployment", item.name)


def _webhooks(context: Context) -> Iterator[Mapping[str, Any]]:
    for item in context.kubernetes("MutatingWebhookConfiguration"):
        for webhook in mappings(item.body.get("webhooks")):
            if str(webhook.get("name")).endswith("istio.io"):
                yield webhook


def _has_auto_image(template: Mapping[str, Any]) -> bool:
    return any(
        c.get("name") == PROXY_CONTAINER and c.get("image") == "auto"
        for c in containers(template)
    )


def _selects(
    webhook: Mapping[str, Any], namespace: Mapping[str, str], labels: Mapping[str, str]
) -> bool:
    return label_selector_matches(
        webhook.get("namespaceSelector"), namespace
    ) and label_selector_matches(webhook.get("objectSelector"), labels)
