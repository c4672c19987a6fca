"""Messages of Envoy 1.40 that the package xds-protos does not have, or not all of.

Invariant: they are in protobuf's own pool under Envoy's names, so that all that shows or checks
resources knows them; nobody imports the package's own modules for them (see `is_described`). Where
the package has nothing of a message yet, its own class is taken as soon as it has one. Source: the
files of Envoy's API that are named below.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from envoy.config.core.v3 import cel_pb2, config_source_pb2, extension_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    symbol_database,
    wrappers_pb2,
)
from xds.type.matcher.v3 import matcher_pb2

_LOGGER = "envoy.extensions.access_loggers.stats.v3"
_ACTION = "envoy.extensions.matching.actions.transform_stat.v3"
_SCOPE = "envoy.type.v3"

_Field = descriptor_pb2.FieldDescriptorProto
_UINT32, _UINT64 = (
    f".{message.DESCRIPTOR.full_name}"
    for message in (wrappers_pb2.UInt32Value, wrappers_pb2.UInt64Value)
)
_MATCHER = f".{matcher_pb2.Matcher.DESCRIPTOR.full_name}"
_STATE_VALUE = f".{value_pb2.FilterStateValue.DESCRIPTOR.full_name}"


def _message(name: str, *fields: Any, nested: Iterable[Any] = ()) -> Any:
    return descriptor_pb2.DescriptorProto(name=name, field=fields, nested_type=nested)


def _text(name: str, number: int) -> Any:
    return _Field(
        name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL
    )


def _flag(name: str, number: int) -> Any:
    return _Field(
        name=name, number=number, type=_Field.TYPE_BOOL, label=_Field.LABEL_OPTIONAL
    )


def _part(name: str, number: int, of: str, *, is_list: bool = False) -> Any:
    label = _Field.LABEL_REPEATED if is_list else _Field.LABEL_OPTIONAL
    return _Field(
        name=name,
        number=number,
        type=_Field.TYPE_MESSAGE,
        type_name=of,
        label=label,
    )


def _histogram(own: str) -> Any:
    units = ("Unspecified", "Bytes", "Microseconds", "Milliseconds", "Percent")
    unit = _Field(
        name="unit",
        number=2,
        type=_Field.TYPE_ENUM,
        type_name=f"{own}.Histogram.Unit",
        label=_Field.LABEL_OPTIONAL,
    )
    made = _message(
        "Histogram", _part("stat", 1, f"{own}.Stat"), unit, _text("value_format", 3)
    )
    values = [
        descriptor_pb2.EnumValueDescriptorProto(name=name, number=number)
        for number, name in enumerate(units)
    ]
    made.enum_type.add(name="Unit", value=values)
    return made


def _logger() -> Any:
    own = f".{_LOGGER}.Config"
    tag = _message(
        "Tag", _text("name", 1), _text("value_format", 2), _part("rules", 3, _MATCHER)
    )
    stat = _message(
        "Stat", _text("name", 1), _part("tags", 2, f"{own}.Tag", is_list=True)
    )
    counter = _message(
        "Counter",
        _part("stat", 1, f"{own}.Stat"),
        _text("value_format", 2),
        _part("value_fixed", 3, _UINT64),
    )
    return _message(
        "Config",
        _text("stat_prefix", 1),
        _part("histograms", 3, f"{own}.Histogram", is_list=True),
        _part("counters", 4, f"{own}.Counter", is_list=True),
        _part("stats_scope", 6, f".{_SCOPE}.Scope"),
        nested=(tag, stat, _histogram(own), counter),
    )


def _scope() -> Any:
    return _message(
        "Scope",
        _part("max_counters", 1, _UINT32),
        _part("max_gauges", 2, _UINT32),
        _part("max_histograms", 3, _UINT32),
        _flag("enable_eviction", 4),
        _text("prefix", 5),
        _text("sharing_name", 6),
    )


def _update() -> Any:
    return _message(
        "TransformStat",
        _part("update_tag", 3, f".{_ACTION}.TransformStat.UpdateTag"),
        nested=(_message("UpdateTag", _text("new_tag_value", 2)),),
    )


def _state() -> Any:
    return _message(
        "Config",
        _part("on_new_connection", 1, _STATE_VALUE, is_list=True),
        _part("on_downstream_tls_handshake", 2, _STATE_VALUE, is_list=True),
        _part("on_downstream_data", 3, _STATE_VALUE, is_list=True),
    )


def _cel() -> Any:
    config = f".{cel_pb2.CelExpressionConfig.DESCRIPTOR.full_name}"
    return _message("Cel", _part("cel_config", 1, config))


def _on_demand() -> Any:
    source = f".{config_source_pb2.ConfigSource.DESCRIPTOR.full_name}"
    mapper = f".{extension_pb2.TypedExtensionConfig.DESCRIPTOR.full_name}"
    return _message(
        "Config",
        _part("config_source", 1, source),
        _part("certificate_mapper", 2, mapper),
    )


def is_described(file: str) -> bool:
    """Whether a file of Envoy's API is in the pool: a module for another one of its name could not
    be imported.
    """
    try:
        descriptor_pool.Default().FindFileByName(file)
    except KeyError:
        return False
    return True


def _added(file: str, message: Any, *needs: str) -> Any:
    """The class of a message that is put into the pool, in a file of Envoy's name."""
    package = file.rpartition("/")[0].replace("/", ".")
    described = descriptor_pb2.FileDescriptorProto(
        name=file,
        package=package,
        syntax="proto3",
        message_type=[message],
        dependency=needs,
    )
    pool: Any = descriptor_pool.Default()
    pool.Add(described)
    found = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{package}.{message.name}")
    )
    # As modules do: what is packed is unpacked by the type's name.
    symbol_database.Default().RegisterMessage(found)
    return found


def _missing(file: str, message: Any, *needs: str) -> Any:
    """The same for a message that the package does not have at all yet; else its own class."""
    try:
        module = import_module(file.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ModuleNotFoundError:
        return _added(file, message, *needs)
    return getattr(module, message.name)


_TLS = "envoy/extensions/transport_sockets/tls"
_WRAPPERS = wrappers_pb2.DESCRIPTOR.name
_SCOPE_FILE = "envoy/type/v3/scope.proto"
Scope = _added(_SCOPE_FILE, _scope(), _WRAPPERS)
StatsLogger = _added(
    "envoy/extensions/access_loggers/stats/v3/stats.proto",
    _logger(),
    _WRAPPERS,
    _SCOPE_FILE,
    matcher_pb2.DESCRIPTOR.name,
)
TransformStat = _added(
    "envoy/extensions/matching/actions/transform_stat/v3/transform_stat.proto",
    _update(),
)
StatTagValueInput = _added(
    "envoy/extensions/matching/common_inputs/stats/v3/stats.proto",
    _message("StatTagValueInput"),
)
SetFilterState = _added(
    "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto",
    _state(),
    value_pb2.DESCRIPTOR.name,
)
Cel = _added(
    "envoy/extensions/formatter/cel/v3/cel.proto",
    _cel(),
    cel_pb2.DESCRIPTOR.name,
)
OnDemandSecret = _missing(
    f"{_TLS}/cert_selectors/on_demand_secret/v3/config.proto",
    _on_demand(),
    config_source_pb2.DESCRIPTOR.name,
    extension_pb2.DESCRIPTOR.name,
)
"""Which certificate a connection gets: the secret whose name a mapper tells, fetched when it is
first needed.
"""
SecretFromFilterState = _missing(
    f"{_TLS}/cert_mappers/filter_state_override/v3/config.proto",
    _message("Config", _text("default_value", 1)),
)
"""A mapper: the name stands in the filter state of the client's connection."""
SetStateOnAccept = _missing(
    "envoy/extensions/filters/listener/set_filter_state/v3/set_filter_state.proto",
    _message("Config", _part("on_accept", 1, _STATE_VALUE, is_list=True)),
    value_pb2.DESCRIPTOR.name,
)
"""A listener filter: sets filter state when a connection is accepted."""
