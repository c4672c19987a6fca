"""The format of access log lines: Istio's text and JSON, and what users write instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import (
    base_pb2,
    extension_pb2,
    substitution_format_string_pb2,
)
from envoy.extensions.formatter.metadata.v3 import metadata_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2

from dockermesh.config.api.mesh_config import (
    AccessLogEncoding,
    EnvoyFileAccessLogProvider,
)
from dockermesh.translate.envoy.newer_protos import Cel
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.mesh.settings import MeshSettings

_FIELDS: Mapping[str, str] = {
    "start_time": "START_TIME",
    "method": "REQ(:METHOD)",
    "path": "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "protocol": "PROTOCOL",
    "response_code": "RESPONSE_CODE",
    "response_flags": "RESPONSE_FLAGS",
    "response_code_details": "RESPONSE_CODE_DETAILS",
    "connection_termination_details": "CONNECTION_TERMINATION_DETAILS",
    "upstream_transport_failure_reason": "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "bytes_received": "BYTES_RECEIVED",
    "bytes_sent": "BYTES_SENT",
    "duration": "DURATION",
    "upstream_service_time": "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
    "x_forwarded_for": "REQ(X-FORWARDED-FOR)",
    "user_agent": "REQ(USER-AGENT)",
    "request_id": "REQ(X-REQUEST-ID)",
    "authority": "REQ(:AUTHORITY)",
    "upstream_host": "UPSTREAM_HOST",
    "upstream_cluster": "UPSTREAM_CLUSTER_RAW",
    "upstream_local_address": "UPSTREAM_LOCAL_ADDRESS",
    "downstream_local_address": "DOWNSTREAM_LOCAL_ADDRESS",
    "downstream_remote_address": "DOWNSTREAM_REMOTE_ADDRESS",
    "requested_server_name": "REQUESTED_SERVER_NAME",
    "route_name": "ROUTE_NAME",
}
"""Istio's fields in the order of its lines of text, and where Envoy has them from."""
_ENCLOSED: Mapping[str, str] = {
    "start_time": "[{}]",
    "method": '"{}',
    "protocol": '{}"',
    **dict.fromkeys(
        (
            "upstream_transport_failure_reason",
            "x_forwarded_for",
            "user_agent",
            "request_id",
            "authority",
            "upstream_host",
        ),
        '"{}"',
    ),
}
"""What stands around fields in a line of text; the request line is one text of three fields."""
DEFAULT_LABELS: Mapping[str, str] = {k: f"%{v}%" for k, v in _FIELDS.items()}
DEFAULT_TEXT = (
    " ".join(_ENCLOSED.get(k, "{}").format(v) for k, v in DEFAULT_LABELS.items()) + "\n"
)
_FORMATTERS: Mapping[str, Any] = {
    "%REQ_WITHOUT_QUERY": (
        "envoy.formatter.req_without_query",
        req_without_query_pb2.ReqWithoutQuery(),
    ),
    "%METADATA": ("envoy.formatter.metadata", metadata_pb2.Metadata()),
    "%CEL": ("envoy.formatter.cel", Cel()),
}
"""Operators that Envoy knows only where it is told."""


def format_of_mesh(settings: MeshSettings) -> Any:
    """The format that the mesh's settings say."""
    written = settings.access_log_format
    if settings.access_log_encoding is AccessLogEncoding.JSON:
        return _labelled(json.loads(written) if written else DEFAULT_LABELS)
    return _text(written or DEFAULT_TEXT)


def format_of_provider(file: EnvoyFileAccessLogProvider) -> Any:
    """The format that a provider says."""
    said = file.log_format
    if said is not None and said.text is None and said.labels is not None:
        made = _labelled(said.labels or DEFAULT_LABELS)
    else:
        made = _text((said.text if said is not None else "") or DEFAULT_TEXT)
    made.omit_empty_values = file.omit_empty_values
    return made


def _text(line: str) -> Any:
    # Without the end of a line all requests would be one.
    line = line if line.endswith("\n") else f"{line}\n"
    return substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=base_pb2.DataSource(inline_string=line),
        formatters=formatters(line),
    )


def _labelled(labels: Mapping[str, Any]) -> Any:
    made = substitution_format_string_pb2.SubstitutionFormatString(
        formatters=formatters(json.dumps(labels))
    )
    made.json_format.update(labels)
    return made


def formatters(text: str) -> list[extension_pb2.TypedExtensionConfig]:
    """What has to be told for the operators in a text."""
    return [
        extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))
        for operator, (name, config) in _FORMATTERS.items()
        if operator in text
    ]
