"""Label and field selectors of lists and watches, in Kubernetes' syntax."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dockermesh.kubeapi.status import bad_request

Matches = Callable[[Mapping[str, Any]], bool]
_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"(?P<key>{_KEY})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUAL = re.compile(rf"(?P<key>{_KEY})\s*(?P<op>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)")
_EXISTS = re.compile(rf"(?P<op>!?)\s*(?P<key>{_KEY})")


def parse_selectors(labels: str, fields: str) -> Matches | None:
    """What an object must satisfy; None if anything does. Raises StatusError (400)."""
    checks = [_label_check(part) for part in _split(labels)] + [
        _field_check(part) for part in _split(fields)
    ]
    if not checks:
        return None
    return lambda document: all(check(document) for check in checks)


def _split(text: str) -> list[str]:
    """The requirements: separated by commas that are in no parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _label_check(text: str) -> Matches:
    if match := _SET.fullmatch(text):
        values = {value.strip() for value in match["values"].split(",")}
        key, wanted = match["key"], match["op"] == "in"
        return lambda document: (_labels(document).get(key) in values) is wanted
    if match := _EQUAL.fullmatch(text):
        key, value, wanted = match["key"], match["value"], match["op"] != "!="
        return lambda document: (_labels(document).get(key) == value) is wanted
    if match := _EXISTS.fullmatch(text):
        key, wanted = match["key"], not match["op"]
        return lambda document: (key in _labels(document)) is wanted
    raise bad_request(
        f"unable to parse requirement: {text[:100]!r} is no label selector"
    )


def _field_check(text: str) -> Matches:
    match = re.fullmatch(r"(?P<key>[\w.]+)\s*(?P<op>==|=|!=)\s*(?P<value>.*)", text)
    if match is None:
        raise bad_request(f"invalid field selector {text[:100]!r}")
    key, value, wanted = match["key"], match["value"], match["op"] != "!="
    # Kubernetes knows these two for every kind.
    if key not in {"metadata.name", "metadata.namespace"}:
        raise bad_request(f"field label not supported: {key[:100]}")
    field = key.removeprefix("metadata.")
    return lambda document: ((document["metadata"].get(field) or "") == value) is wanted


def _labels(document: Mapping[str, Any]) -> Mapping[str, Any]:
    labels = document["metadata"].get("labels")
    return labels if isinstance(labels, Mapping) else {}
