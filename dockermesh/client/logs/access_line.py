"""Lines of access logs in Istio's two forms, read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Only the user agent may hold quotes: with more of such fields a hostile line would take long.
_TEXT = re.compile(
    r"\[(?P<start_time>[^\]\s]+)\]"
    r' "(?P<method>\S+) (?P<path>\S*) (?P<protocol>\S+)"'
    r" (?P<response_code>\d+) (?P<response_flags>\S+) (?P<response_code_details>\S+)"
    r' (?P<connection_termination_details>[^"]+)'
    r' "(?P<upstream_transport_failure_reason>[^"]*)"'
    r" (?P<bytes_received>\d+) (?P<bytes_sent>\d+) (?P<duration>\d+)"
    r" (?P<upstream_service_time>\S+)"
    r' "(?P<x_forwarded_for>[^"]*)" "(?P<user_agent>.*?)" "(?P<request_id>[^"]*)"'
    r' "(?P<authority>[^"]*)" "(?P<upstream_host>[^"]*)"'
    r" (?P<upstream_cluster>\S+) (?P<upstream_local_address>\S+)"
    r" (?P<downstream_local_address>\S+) (?P<downstream_remote_address>\S+)"
    r" (?P<requested_server_name>\S+) (?P<route_name>.+)"
)
_NUMBERS = frozenset(
    {
        "response_code",
        "bytes_received",
        "bytes_sent",
        "duration",
        "upstream_service_time",
    }
)
_LONGEST = 100_000


def read_access_line(text: str) -> Mapping[str, Any] | None:
    """The fields by the names that Istio's JSON has; None for any other line."""
    if len(text) > _LONGEST:
        return None
    if text.startswith("{"):
        return _from_json(text)
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    return {name: _value(name, value) for name, value in match.groupdict().items()}


def _from_json(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # What is left of a format of the user's own may be anything; these tell it from other lines.
    is_access = isinstance(found, dict) and found.keys() >= {
        "start_time",
        "response_code",
    }
    return found if is_access else None


def _value(name: str, text: str) -> Any:
    if text == "-":
        return None
    return int(text) if name in _NUMBERS and text.isascii() and text.isdigit() else text
