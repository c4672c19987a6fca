"""How one side of a proxy traces, by its Telemetry resources and the mesh's settings.

What a level says replaces what those above it say, field by field; what none says the mesh's
settings do. Source: Istio's `pilot/pkg/model/telemetry.go` (Tracing) and
`pilot/pkg/networking/core/tracing.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dockermesh.config.api.mesh_config import MeshTracing, Provider, TracingProvider
from dockermesh.config.api.telemetry import CustomTag, Tracing, WorkloadMode
from dockermesh.model.contract import MESH_PROJECT, SPANS_PORT
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.telemetry.merging import known_providers
from dockermesh.translate.telemetry.selection import Levels

OWN = MESH_PROJECT
"""The provider that every mesh has without being told of it: the control plane takes the spans."""
LEGACY = "zipkin of defaultConfig.tracing"
DEFAULT_SAMPLING = 1.0
"""Percent of requests (Istio's PILOT_TRACE_SAMPLING)."""
_Said = TypeVar("_Said")


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What is traced, and whom spans go to: a provider of the mesh, or the control plane (None)."""

    provider: Provider | None
    sampling: float
    tags: Mapping[str, CustomTag]
    has_istio_tags: bool
    by_request_id: bool
    longest_path: int = 0


def trace_settings(
    levels: Levels, settings: MeshSettings, mode: WorkloadMode, *, has_own: bool
) -> TraceSettings | None:
    """The settings of one side (CLIENT or SERVER); None where it does not trace. `has_own`: the
    control plane would take this proxy's spans.
    """
    entries = [*_entries(levels, mode)]
    # Who said that tracing is off, and says nothing more in particular, has it off.
    if settings.enable_tracing is False and not _is_asked_for(levels, settings):
        return None
    if _last(e.disable_span_reporting for e in entries):
        return None

    named = _last(e.providers[0].name for e in entries if e.providers)
    known, provider = _provider(named or "", settings)
    if not known or (provider is None and not has_own):
        return None

    mesh = settings.tracing or MeshTracing()
    sampling = _last(e.random_sampling_percentage for e in entries)
    has_istio_tags = _last(e.enable_istio_tags for e in entries)
    by_request_id = _last(e.use_request_id_for_trace_sampling for e in entries)
    return TraceSettings(
        provider=provider,
        sampling=_first(sampling, mesh.sampling, DEFAULT_SAMPLING),
        tags=_last(e.custom_tags for e in entries if e.custom_tags) or mesh.custom_tags,
        has_istio_tags=_first(has_istio_tags, mesh.enable_istio_tags, True),
        by_request_id=_first(by_request_id, True),
        longest_path=_longest(provider) or mesh.max_path_tag_length,
    )


def default_provider(settings: MeshSettings) -> str:
    """The name of whom spans go to where no Telemetry names a provider."""
    # Several are not supported; Istio takes the first one, too.
    for name in settings.tracing_providers:
        return name
    return LEGACY if legacy_provider(settings) is not None else OWN


def legacy_provider(settings: MeshSettings) -> Provider | None:
    """The collector that `defaultConfig.tracing` of the MeshConfig names, the old way."""
    tracing = settings.tracing
    if not settings.enable_tracing or tracing is None or tracing.zipkin is None:
        return None
    host, _, port = tracing.zipkin.address.rpartition(":")
    if not host or not port.isdigit():
        # Our port for spans has Zipkin's number.
        host, port = tracing.zipkin.address, str(SPANS_PORT)
    collector = TracingProvider(service=host, port=int(port))
    return Provider(name=LEGACY, zipkin=collector)


def _entries(levels: Levels, mode: WorkloadMode) -> Iterator[Tracing]:
    for entry in (e for level in levels for e in level.spec.tracing):
        if entry.match is None or entry.match.mode.covers(mode):
            yield entry


def _is_asked_for(levels: Levels, settings: MeshSettings) -> bool:
    return bool(settings.tracing_providers) or any(r.spec.tracing for r in levels)


def _provider(named: str, settings: MeshSettings) -> tuple[bool, Provider | None]:
    """Whether there is such a provider (if none is named, the default one), and which."""
    name = named or default_provider(settings)
    found = known_providers(settings).get(name.casefold())
    if found is not None:
        return True, found
    if name == LEGACY:
        return True, legacy_provider(settings)
    return name == OWN, None


def _longest(provider: Provider | None) -> int:
    if provider is None:
        return 0
    tracing = provider.zipkin or provider.opentelemetry
    return tracing.max_tag_length if tracing is not None else 0


def _last(values: Iterable[_Said | None]) -> _Said | None:
    found: _Said | None = None
    for value in values:
        found = value if value is not None else found
    return found


def _first(*values: _Said | None) -> _Said:
    return next(value for value in values if value is not None)
