"""Which providers log what of a proxy, by its Telemetry resources and the mesh's settings.

Providers that a level names replace those of the levels above, and an entry without any is about
those of the entry before. Source: Istio's `pilot/pkg/model/telemetry.go` (mergeLogs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dockermesh.config.api.mesh_config import (
    EnvoyFileAccessLogProvider,
    Provider,
)
from dockermesh.config.api.telemetry import AccessLogging, WorkloadMode
from dockermesh.translate.mesh.settings import MeshSettings

BUILT_IN = Provider(
    name="envoy", envoy_file_access_log=EnvoyFileAccessLogProvider("/dev/stdout")
)
"""The provider that Istio has without being told of it."""


@dataclass(frozen=True, slots=True)
class Logger:
    """How one provider logs: what fulfils the expression (all, if it is empty), or nothing."""

    expression: str = ""
    is_disabled: bool = False


def loggers(
    levels: Iterable[tuple[AccessLogging, ...]],
    defaults: tuple[str, ...],
    mode: WorkloadMode,
) -> dict[str, Logger]:
    """The providers by name, the widest level of Telemetry first; `mode` is CLIENT or SERVER."""
    listed = [level for level in levels if level]
    if not listed:
        return dict.fromkeys(defaults, Logger())

    chosen, filters = _named(listed, defaults, mode)
    found: dict[str, Logger] = {}
    names = defaults

    for entry in (entry for level in listed for entry in level):
        names = tuple(p.name for p in entry.providers) or names
        if not _is_about(entry, mode):
            continue
        for name in names:
            if name in chosen:
                is_off = bool(entry.disabled)
                found[name] = (
                    Logger(is_disabled=True)
                    if is_off
                    else Logger(filters.get(name, ""))
                )

    return {name: found[name] for name in sorted(found)}


def _named(
    levels: Iterable[tuple[AccessLogging, ...]],
    defaults: tuple[str, ...],
    mode: WorkloadMode,
) -> tuple[set[str], dict[str, str]]:
    """The providers of the lowest level that names some, and the last expression for each."""
    chosen = set(defaults)
    filters: dict[str, str] = {}

    for level in levels:
        named = [
            (provider.name, entry)
            for entry in level
            if _is_about(entry, mode)
            for provider in entry.providers
        ]
        for name, entry in named:
            filters[name] = entry.filter.expression if entry.filter is not None else ""
        if named:
            chosen = {name for name, _ in named}

    return chosen, filters


def _is_about(entry: AccessLogging, mode: WorkloadMode) -> bool:
    return entry.match is None or entry.match.mode.covers(mode)


def known_providers(settings: MeshSettings) -> Mapping[str, Provider]:
    """The mesh's providers by name, which counts in any case (Istio's rule)."""
    found = {BUILT_IN.name: BUILT_IN}
    # Backwards: of two that differ by case alone the first one counts.
    for provider in reversed(settings.extension_providers):
        found[provider.name.casefold()] = provider
    return found
