"""Envoy's access loggers of one proxy.

Where no provider logs, `accessLogFile` of the mesh's settings does, unless Telemetry turned one
off. Source: Istio's `pilot/pkg/networking/core/accesslog.go`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2

from dockermesh.config.api.telemetry import WorkloadMode
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.telemetry import providers
from dockermesh.translate.telemetry.log_formats import format_of_mesh
from dockermesh.translate.telemetry.merging import known_providers, loggers
from dockermesh.translate.telemetry.selection import Levels
from dockermesh.xds.protobuf import serialised

_Filter = accesslog_pb2.AccessLogFilter


@dataclass(frozen=True, slots=True)
class Loggers:
    """The loggers of one side as serialised AccessLog messages: those of requests, those of
    connections, and those of what no filter chain takes.
    """

    of_requests: tuple[bytes, ...] = ()
    of_connections: tuple[bytes, ...] = ()
    of_listeners: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessLogs:
    """What a proxy logs, as client and as server. It is a key: proxies with equal ones share their
    listeners.
    """

    client: Loggers = Loggers()
    server: Loggers = Loggers()


NO_LOGS = AccessLogs()


def access_logs(
    levels: Levels, settings: MeshSettings, names: Mapping[str, str]
) -> AccessLogs:
    """The loggers that follow from the Telemetry resources for a proxy, the widest first; `names`
    lead to the hosts of collectors.
    """
    return AccessLogs(
        _side(levels, settings, names, WorkloadMode.CLIENT),
        _side(levels, settings, names, WorkloadMode.SERVER),
    )


def _side(
    levels: Levels,
    settings: MeshSettings,
    names: Mapping[str, str],
    mode: WorkloadMode,
) -> Loggers:
    made = tuple(_loggers(levels, settings, names, mode))
    at_end = of_types(data_pb2.TcpConnectionEnd)
    return Loggers(
        tuple(serialised(_message(logger, of)) for logger, of in made),
        # Metrics have a connection reported when it begins, too.
        tuple(serialised(_message(logger, [at_end, *of])) for logger, of in made),
        tuple(serialised(_message(logger, [_no_chain(), *of])) for logger, of in made),
    )


def _loggers(
    levels: Levels,
    settings: MeshSettings,
    names: Mapping[str, str],
    mode: WorkloadMode,
) -> Iterator[tuple[providers.Logger, list[Any]]]:
    """Each logger with the filters that all have to let through."""
    known = known_providers(settings)
    chosen = loggers(
        [r.spec.access_logging for r in levels], settings.access_log_providers, mode
    )
    is_silent = True

    for name, how in chosen.items():
        provider = known.get(name.casefold())
        if provider is None:
            continue
        logger = providers.logger_of(provider, settings, names)
        if logger is None:
            continue
        is_silent = False
        if not how.is_disabled:
            yield logger, [_expression(how.expression)] if how.expression else []

    # The settings of the mesh are for those who say nothing, and "none" is saying something.
    if is_silent and settings.access_log_file:
        form = format_of_mesh(settings)
        yield providers.file_logger(settings.access_log_file, form), []


def _message(logger: providers.Logger, filters: list[Any]) -> Any:
    name, config = logger
    message = accesslog_pb2.AccessLog(name=name, typed_config=pack(config))
    if len(filters) == 1:
        message.filter.CopyFrom(filters[0])
    elif filters:
        message.filter.and_filter.filters.extend(filters)
    return message


def _expression(text: str) -> Any:
    config = cel_pb2.ExpressionFilter(expression=text)
    return _Filter(
        extension_filter=accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=pack(config),
        )
    )


def of_types(*types: Any) -> Any:
    """What happens at these moments of a connection, and at no other."""
    return _Filter(log_type_filter=accesslog_pb2.LogTypeFilter(types=types))


def _no_chain() -> Any:
    # All else that a listener could log its filters log.
    return _Filter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=["NR"]))
