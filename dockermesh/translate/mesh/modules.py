"""The WebAssembly modules that the config wants, and what the control plane has of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dockermesh.config.api.extensions import WasmPlugin
from dockermesh.config.resource import Resource


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """Where a module comes from. With `sha256`, nothing else is taken for it."""

    url: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Module:
    """What is known of a plugin's module: its content, or why there is none (`problem`). With both,
    the content is that of before, which stays in use.
    """

    content: bytes = field(default=b"", repr=False)
    problem: str = ""


def wanted_modules(
    plugins: Iterable[Resource[WasmPlugin]],
) -> dict[str, ModuleSource]:
    """The sources by the plugin, `WasmPlugin namespace/name`."""
    return {str(p): source_of(p) for p in plugins}


def source_of(plugin: Resource[WasmPlugin]) -> ModuleSource:
    """Where a plugin's module comes from."""
    return ModuleSource(plugin.spec.url, plugin.spec.sha256)
