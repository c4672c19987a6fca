"""Documents from clients: shape, unknown fields (fieldValidation) and Istio's rules, in Kubernetes'
words.

Invariant: what comes out validates, so nothing is stored that a proxy could not be given.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.config.documents import read_document
from dockermesh.config.findings import REQUIRED, UNKNOWN_FIELD, Finding, Path
from dockermesh.kubeapi.served import SECRET, Served
from dockermesh.kubeapi.status import (
    StatusCause,
    StatusError,
    Target,
    bad_request,
    invalid,
)
from dockermesh.kubeapi.vault import check_secret

MAX_DEPTH = 64
MAX_STORED_BYTES = 500_000
"""Consul takes values of up to 512 KiB."""
STRICT, WARN, IGNORE = "Strict", "Warn", "Ignore"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")


@dataclass(frozen=True, slots=True)
class Checked:
    """A document that may be stored, and what its sender should know."""

    document: dict[str, Any]
    warnings: tuple[str, ...] = ()


def parse_json(text: str | bytes) -> Any:
    """JSON, with all that could trouble a later reader refused. Raises StatusError (400)."""

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        data = json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {str(error)[:200]}") from None
    check_plain(data)
    return data


def check_plain(data: Any) -> None:
    """Refuse what is nested too deeply, and text that is no Unicode. Raises StatusError (400)."""
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise bad_request(f"the body is nested more than {MAX_DEPTH} levels deep")
        containers = [d for d in level if isinstance(d, dict | list)]
        level = [
            v for d in containers for v in (d.values() if isinstance(d, dict) else d)
        ]
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise bad_request(
            f"the body holds what cannot be stored: {str(error)[:200]}"
        ) from None


def check_envelope(document: Any, served: Served, version: str) -> dict[str, Any]:
    """The document as an object of the kind that the path names. Raises StatusError (400)."""
    if not isinstance(document, dict):
        raise bad_request("the body must be an object")
    result = copy.deepcopy(document)
    _check_type(result, "apiVersion", "API version", served.api_version(version))
    _check_type(result, "kind", "kind", served.kind)

    metadata = result.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request("metadata must be an object")
    for field in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if metadata.get(field) is None:
            metadata.pop(field, None)
        elif not isinstance(metadata[field], str):
            raise bad_request(f"metadata.{field} must be a text")
    for field in ("labels", "annotations"):
        # Null is how patches and editors say "none".
        if metadata.get(field) is None:
            metadata.pop(field, None)

    # Clients send back the status that they read; it is computed, never stored.
    result.pop("status", None)
    return result


def _check_type(document: dict[str, Any], field: str, words: str, wanted: str) -> None:
    """A client may leave out what the path says, but not contradict it."""
    given = document.setdefault(field, wanted)
    if given != wanted:
        raise bad_request(
            f"the {words} in the data ({given}) does not match the expected {words} ({wanted})"
        )


def check_document(
    document: dict[str, Any], served: Served, validation: str
) -> Checked:
    """Apply the kind's rules. Raises StatusError: 400 for unknown fields under Strict, 422 for
    broken rules.
    """
    name = str(document["metadata"].get("name", ""))
    target = Target(served.group, served.plural, served.kind, name)
    if len(json.dumps(document)) > MAX_STORED_BYTES:
        text = f"{target.title} is larger than {MAX_STORED_BYTES} bytes"
        raise StatusError(413, "RequestEntityTooLarge", text)
    if served.definition is None:
        return Checked(_check_core(document, served, target))

    findings = read_document(_without_managed(document)).findings
    unknown = [finding for finding in findings if finding.code == UNKNOWN_FIELD]
    warnings: list[str] = []
    if unknown:
        warnings += _unknown_fields(document, served, unknown, validation)
        document = _pruned(document, unknown)
        # What the rules said beside an unknown field may have been a consequence of it.
        findings = read_document(_without_managed(document)).findings

    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise invalid(target, [_cause(finding) for finding in errors])
    warnings += [f"{finding.field}: {finding.message}" for finding in findings]
    return Checked(document, tuple(warnings))


def _check_core(
    document: dict[str, Any], served: Served, target: Target
) -> dict[str, Any]:
    """A Namespace or a Secret, which have no rules of Istio."""
    _check_texts(document, target)
    if served is SECRET:
        return check_secret(document, target)
    return _check_namespace(document, target)


def _unknown_fields(
    document: Mapping[str, Any],
    served: Served,
    unknown: Iterable[Finding],
    validation: str,
) -> list[str]:
    """What a client is told about unknown fields, in Kubernetes' words. Raises StatusError (400)
    under Strict.
    """
    texts = [f'unknown field "{finding.field}"' for finding in unknown]
    if validation == STRICT:
        version = document["apiVersion"].rpartition("/")[2]
        raise bad_request(
            f'{served.kind} in version "{version}" cannot be handled as a {served.kind}: '
            f"strict decoding error: {', '.join(texts)}"
        )
    return texts if validation == WARN else []


def _pruned(document: dict[str, Any], unknown: Iterable[Finding]) -> dict[str, Any]:
    """The document without unknown fields, as an API server with a structural schema stores it."""
    result = copy.deepcopy(document)
    for finding in unknown:
        _prune(result, finding.path)
    return result


def problems_of(document: Mapping[str, Any]) -> list[str]:
    """Why a stored document is not used; empty if it is."""
    return [
        f"{f.field}: {f.message}"
        for f in read_document(document).findings
        if f.is_error
    ]


def _without_managed(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **document,
        "metadata": {
            k: v for k, v in document["metadata"].items() if k != "managedFields"
        },
    }


def _check_namespace(document: dict[str, Any], target: Target) -> dict[str, Any]:
    if not _LABEL.fullmatch(target.name) or len(target.name) > 63:
        problem = f"Invalid value: {target.name[:80]!r}: must be a lower-case DNS label"
        raise invalid(target, [StatusCause("metadata.name", problem)])
    return {key: document[key] for key in ("apiVersion", "kind", "metadata")}


def _check_texts(document: dict[str, Any], target: Target) -> None:
    causes = []
    for field in ("labels", "annotations"):
        texts = document["metadata"].get(field) or {}
        if not isinstance(texts, dict) or not all(
            isinstance(v, str) for v in texts.values()
        ):
            causes.append(
                StatusCause(f"metadata.{field}", "must be a mapping of texts")
            )
    if not _SUBDOMAIN.fullmatch(target.name) or len(target.name) > 253:
        problem = (
            f"Invalid value: {target.name[:80]!r}: "
            "must be lower-case letters, digits, '-' and '.'"
        )
        causes.append(StatusCause("metadata.name", problem))
    if causes:
        raise invalid(target, causes)


def _cause(finding: Finding) -> StatusCause:
    reason = "FieldValueRequired" if finding.code == REQUIRED else "FieldValueInvalid"
    return StatusCause(finding.field or "spec", finding.message, reason)


def _prune(document: dict[str, Any], path: Path) -> None:
    """Remove a field, if it is still there."""
    node: Any = document
    for part in path[:-1]:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(node, dict):
        node.pop(path[-1], None)
