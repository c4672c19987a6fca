"""The health check in a DestinationRule's annotation, read like any other part of a resource."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from dockermesh.config.api.health_check import ANNOTATION, HealthCheck
from dockermesh.config.decode import decode
from dockermesh.config.findings import Finding, Findings
from dockermesh.config.loading import load_documents

_LARGEST = 4096


def health_check(annotations: Mapping[str, str]) -> HealthCheck | None:
    """What the annotation asks for; None without one, or if it cannot be read."""
    text = annotations.get(ANNOTATION)
    if text is None:
        return None
    found, findings = read_health_check(text)
    return None if any(finding.is_error for finding in findings) else found


@lru_cache(maxsize=1024)
def read_health_check(text: str) -> tuple[HealthCheck, tuple[Finding, ...]]:
    """The annotation's text as a health check, with what is wrong with it."""
    findings = Findings()
    at = findings.at("metadata", "annotations", ANNOTATION)
    # It is parsed as YAML, and anybody may write annotations.
    if len(text) > _LARGEST:
        at.error(f"must have at most {_LARGEST} characters")
        return HealthCheck(), tuple(findings.found)

    loaded = load_documents(text)
    documents = [document.data for document in loaded.documents]
    if loaded.error is not None or len(documents) != 1 or loaded.documents[0].mistakes:
        at.error(
            "must be one mapping in YAML or JSON, such as {http: {path: /healthz}, interval: 5s}"
        )
        return HealthCheck(), tuple(findings.found)

    check = decode(HealthCheck, documents[0], at)
    if (
        not findings.found
        and check.http is None
        and check.tcp is None
        and check.grpc is None
    ):
        at.error("must have one of http, tcp and grpc")
    return check, tuple(findings.found)
