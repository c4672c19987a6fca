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
    injected = set()
    for item in context.kubernetes("Namespace"):
        if item.name == ROOT_NAMESPACE:
            continue
        labels = item.labels
        legacy, revision = labels.get(INJECTION), labels.get(_REVISION)
        given = [f"{INJECTION}={legacy}"] if legacy is not None else []
        if legacy in (None, "enabled"):
            given += [f"{key}={labels[key]}" for key in (_REVISION, _MODE) if key in labels]
        if len(given) > 1:
            yield found(item, INJECTION_LABELS, ", ".join(given))
        if labels.get(_MODE) == "ambient":
            continue
        if not legacy and revision is None:
            if _is_default(context, revision or ""):
                yield found(item, INJECTED_BY_DEFAULT)
            else:
                yield found(item, NAMESPACE_NOT_INJECTED, item.name)
        elif revision is not None or legacy == "enabled":
            injected.add(item.name)
    for pod in context.kubernetes("Pod"):
        if pod.namespace in injected and _should_have_proxy(pod) and not _proxy_images(pod):
            yield found(pod, POD_MISSING_PROXY, pod.full_name)


def _should_have_proxy(pod: AnalyzedObject) -> bool:
    wanted = pod.labels.get(INJECT, pod.annotations.get(INJECT, ""))
    return wanted.lower() != "false" and dig(pod.body, "spec", "hostNetwork") is not True


def _proxy_images(pod: AnalyzedObject) -> list[str]:
    listed = containers(pod.body, with_init=True)
    return [str(c["image"]) for c in listed if c.get("name") == PROXY_CONTAINER and c.get("image")]


def _values(context: Context, revision: str) -> Any:
    """The injector's settings for a revision; None without an injector."""
    name = _INJECTOR if revision in ("", "default") else f"{_INJECTOR}-{revision}"
    for item in context.kubernetes("ConfigMap"):
        text = dig(item.body, "data", "values")
        if item.name == name and isinstance(text, str):
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return None
    return None


def _is_default(context: Context, revision: str) -> bool:
    values = _values(context, revision)
    return dig(values, "sidecarInjectorWebhook", "enableNamespacesByDefault") is True


def proxy_images(context: Context) -> Iterator[Finding]:
    """Running proxies should have the image that injection would give them now."""
    outdated: dict[str, list[str]] = defaultdict(list)
    for pod in context.kubernetes("Pod"):
        namespace = context.namespaces.get(pod.namespace)
        if namespace is None or pod.annotations.get("sidecar.istio.io/proxyImage"):
            continue
        revision = namespace.labels.get(_REVISION)
        if revision is None and namespace.labels.get(INJECTION) != "enabled":
            continue
        wanted = _wanted_image(_values(context, revision or ""))
        accepted = (wanted, f"{wanted}-{_image_type(context, pod)}")
        outdated[pod.namespace] += [
            pod.name for image in _proxy_images(pod) if wanted and image not in accepted
        ]
    for name, pods in outdated.items():
        if pods:
            yield found(context.namespaces[name], PROXY_IMAGES, pods)


def _wanted_image(values: Any) -> str:
    settings = dig(values, "global")
    image = dig(settings, "proxy", "image")
    if not isinstance(image, str):
        return ""
    return image if "/" in image else f"{dig(settings, 'hub')}/{image}:{dig(settings, 'tag')}"


def _image_type(context: Context, pod: AnalyzedObject) -> str:
    """The variant (`distroless`) that applies to a pod: its own, its ProxyConfig's, or the
    mesh's.
    """
    from dockermesh.config.loading import load_documents

    own = load_documents(pod.annotations.get("proxy.istio.io/config", "")).documents
    chosen = dig(own[0].data, "image", "imageType") if own else None
    ranked: list[tuple[int, Any]] = []
    for item in context.istio("ProxyConfig"):
        selector = texts(dig(item.body, "spec", "selector", "matchLabels"))
        image = dig(item.body, "spec", "image", "imageType")
        if item.namespace in (pod.namespace, context.root_namespace) and selects(
            selector, pod.labels
        ):
            ranked.append(((item.namespace == pod.namespace) * 2 + bool(selector), image))
    ranked.append((-1, dig(context.mesh_config, "defaultConfig", "image", "imageType")))
    inherited = (image for _, image in sorted(ranked, key=lambda entry: -entry[0]) if image)
    return str(chosen or next(inherited, ""))


def auto_images(context: Context) -> Iterator[Finding]:
    """`image: auto` is for injection to replace."""
    webhooks = [
        webhook
        for item in context.kubernetes("MutatingWebhookConfiguration")
        for webhook in mappings(item.body.get("webhooks"))
        if str(webhook.get("name")).endswith("istio.io")
    ]
    for pod in context.kubernetes("Pod"):
        if _has_auto_image(pod.body):
            yield found(pod, AUTO_IMAGE_ERROR, "Pod", pod.name)
    for item in context.kubernetes("Deployment"):
        template = pod_template(item)
        if not _has_auto_image(template):
            continue
        namespace = context.namespaces.get(item.namespace)
        space = namespace.labels if namespace is not None else {}
        labels = texts(dig(template, "metadata", "labels"))
        if not any(_selects(webhook, space, labels) for webhook in webhooks):
            yield found(item, AUTO_IMAGE_WARNING, "Deployment", item.name)


def _has_auto_image(template: Mapping[str, Any]) -> bool:
    return any(
        c.get("name") == PROXY_CONTAINER and c.get("image") == "auto" for c in containers(template)
    )


def _selects(
    webhook: Mapping[str, Any], namespace: Mapping[str, str], labels: Mapping[str, str]
) -> bool:
    return label_selector_matches(
        webhook.get("namespaceSelector"), namespace
    ) and label_selector_matches(webhook.get("objectSelector"), labels)
