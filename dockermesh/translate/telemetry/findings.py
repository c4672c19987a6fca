"""What of Telemetry resources has no effect, and why. Computed only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.config.api.telemetry import Telemetry
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.findings import Reason, ResourceFinding
from dockermesh.translate.mesh.index import ConfigIndex
from dockermesh.translate.telemetry import tracers
from dockermesh.translate.telemetry.merging import known_providers
from dockermesh.translate.telemetry.metric_merging import metrics_of
from dockermesh.translate.telemetry.metrics import known_makers
from dockermesh.translate.telemetry.providers import collector_of, logger_of
from dockermesh.translate.telemetry.selection import is_namespace_wide
from dockermesh.translate.telemetry.trace_merging import OWN
from dockermesh.translate.telemetry.tracers import tracer_of


def telemetry_findings(index: ConfigIndex) -> Iterator[ResourceFinding]:
    """All that can be told without knowing any proxy."""
    config, settings = index.config, index.settings
    owners: dict[str, Resource[Telemetry]] = {}
    for resource in config.telemetries:
        if is_namespace_wide(resource.spec):
            older = owners.setdefault(resource.namespace, resource)
            if older is not resource:
                text = f"spec: {older}, which is older, is for the same workloads"
                yield ResourceFinding(str(resource), Reason.CONFLICTED, text)
                continue

        yield from _providers(resource, index)
        yield from _metrics(resource, index)
        yield from _tracing(resource, index)

    for oldest in config.mesh_configs[:1]:
        for number, name in enumerate(settings.access_log_providers):
            if wrong := _fault(name, index):
                place = f"spec.defaultProviders.accessLogging[{number}]"
                yield ResourceFinding(str(oldest), wrong[0], f"{place}: {wrong[1]}")
        for name in settings.tracing_providers[:1]:
            if wrong := _fault_of_tracer(name, index):
                place = "spec.defaultProviders.tracing[0]"
                yield ResourceFinding(str(oldest), wrong[0], f"{place}: {wrong[1]}")


def _tracing(
    resource: Resource[Telemetry], index: ConfigIndex
) -> Iterator[ResourceFinding]:
    for number, entry in enumerate(resource.spec.tracing):
        place = f"spec.tracing[{number}]"
        for provider in entry.providers[:1]:
            if wrong := _fault_of_tracer(provider.name, index):
                text = f"{place}.providers[0].name: {wrong[1]}"
                yield ResourceFinding(str(resource), wrong[0], text)
        if entry.disable_context_propagation:
            text = f"{place}.disableContextPropagation: has no effect: Envoy passes traces on"
            yield ResourceFinding(str(resource), Reason.NOT_TRANSLATED, text)


def _fault_of_tracer(name: str, index: ConfigIndex) -> tuple[Reason, str] | None:
    """Why spans for a provider go nowhere."""
    known = known_providers(index.settings).get(name.casefold())
    if known is None and name == OWN:
        return None
    if known is None:
        text = f"MeshConfig has no provider {name!r}; nothing is traced for it"
        return Reason.REFERENCE_NOT_FOUND, text
    if tracer_of(known, index.settings, index.names) is None:
        text = (
            f"provider {name!r} is none that proxies send spans to: use zipkin or opentelemetry;"
            " nothing is traced for it"
        )
        return Reason.REFERENCE_NOT_FOUND, text
    host = tracers.collector_of(known, index.settings, index.names)
    # Zipkin's may be outside of the mesh: DNS is asked for it.
    if known.opentelemetry is not None and host not in index.names.values():
        text = f"there is no service {host}, to which provider {name!r} sends"
        return Reason.REFERENCE_NOT_FOUND, text
    return None


def _providers(
    resource: Resource[Telemetry], index: ConfigIndex
) -> Iterator[ResourceFinding]:
    for number, entry in enumerate(resource.spec.access_logging):
        for position, provider in enumerate(entry.providers):
            if wrong := _fault(provider.name, index):
                place = f"spec.accessLogging[{number}].providers[{position}].name"
                text = f"{place}: {wrong[1]}"
                yield ResourceFinding(str(resource), wrong[0], text)


def _metrics(
    resource: Resource[Telemetry], index: ConfigIndex
) -> Iterator[ResourceFinding]:
    makers = known_makers(index.settings)
    for number, entry in enumerate(resource.spec.metrics):
        place = f"spec.metrics[{number}]"
        for position, provider in enumerate(entry.providers):
            if provider.name.casefold() not in makers:
                where = f"{place}.providers[{position}].name"
                text = f"{where}: no provider {provider.name!r} makes metrics"
                yield ResourceFinding(str(resource), Reason.REFERENCE_NOT_FOUND, text)
        if entry.reporting_interval is not None:
            text = f"{place}.reportingInterval: connections are counted when they end"
            yield ResourceFinding(str(resource), Reason.NOT_TRANSLATED, text)
        for position, override in enumerate(entry.overrides):
            if override.match is not None and not any(metrics_of(override.match)):
                text = f"{place}.overrides[{position}].match: there is no such metric"
                yield ResourceFinding(str(resource), Reason.NOT_TRANSLATED, text)


def _fault(name: str, index: ConfigIndex) -> tuple[Reason, str] | None:
    """Why a provider logs nothing."""
    known = known_providers(index.settings).get(name.casefold())
    if known is None:
        text = f"MeshConfig has no provider {name!r}; nothing is logged for it"
        return Reason.REFERENCE_NOT_FOUND, text
    if logger_of(known, index.settings, index.names) is None:
        text = f"provider {name!r} is none of access logs; nothing is logged for it"
        return Reason.REFERENCE_NOT_FOUND, text
    host = collector_of(known, index.settings, index.names)
    if host and host not in index.names.values():
        text = f"there is no service {host}, to which provider {name!r} sends"
        return Reason.REFERENCE_NOT_FOUND, text
    return None
