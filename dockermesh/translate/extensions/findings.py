"""What of WasmPlugins has no effect, and why. Computed only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dockermesh.config.api.extensions import FailStrategy, PluginType, WasmPlugin
from dockermesh.config.resource import Resource
from dockermesh.translate.extensions.plugins import Plugin
from dockermesh.translate.mesh.findings import Reason, ResourceFinding
from dockermesh.translate.mesh.modules import Module

_WITHOUT_EFFECT = {
    "verification_key": "verificationKey: has no effect",
    "image_pull_secret": "imagePullSecret: has no effect: no image is pulled",
}


def plugin_findings(
    plugins: Iterable[Resource[WasmPlugin]], modules: Mapping[str, Module]
) -> Iterator[ResourceFinding]:
    """All that can be told without knowing any proxy."""
    for resource in plugins:
        name = str(resource)
        module = modules.get(name)
        if module is None:
            text = "spec.url: the module is being fetched; the plugin has no effect yet"
            yield ResourceFinding(name, Reason.NOT_TRANSLATED, text)
        elif module.problem:
            instead = _instead(resource.spec, has_former=bool(module.content))
            text = f"spec.url: {module.problem}; {instead}"
            yield ResourceFinding(name, Reason.REFERENCE_NOT_FOUND, text)

        for field, text in _WITHOUT_EFFECT.items():
            if getattr(resource.spec, field):
                yield ResourceFinding(name, Reason.NOT_TRANSLATED, f"spec.{text}")


def refusal_findings(plugins: Iterable[Plugin]) -> Iterator[ResourceFinding]:
    """Of plugins that proxies did not take."""
    for plugin in plugins:
        instead = _instead(plugin.spec, has_former=plugin.former is not None)
        text = f"spec: a proxy refused it: {plugin.refusal}; {instead}"
        yield ResourceFinding(str(plugin.source), Reason.NOT_TRANSLATED, text)


def _instead(spec: WasmPlugin, *, has_former: bool) -> str:
    if has_former:
        return "the one of before stays in use"
    if spec.fail_strategy is FailStrategy.FAIL_OPEN:
        return "traffic passes without it (failStrategy FAIL_OPEN)"
    refused = (
        "connections are closed"
        if spec.type is PluginType.NETWORK
        else "requests are answered 503"
    )
    return f"{refused} (failStrategy {spec.fail_strategy.value})"
