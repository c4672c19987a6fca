"""The health check in a DestinationRule's annotation, read like any other part of a resource."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from dockermesh.config.api.health_check import ANNOTATION, HealthCheck
from dockermesh.config.decode import decode
from dockermesh.config.findings import Level, Problem, Problems
from dockermesh.config.loading import load_documents

_LARGEST = 4096


def health_check(annotations: Mapping[str, str]) -> HealthCheck | None:
    """What the annotation asks for; None without one, or if it cannot be read."""
    text = annotations.get(ANNOTATION)
    if text is None:
        return None
    found, problems = read_health_check(text)
    return None if any(p.level is Level.ERROR for p in problems) else found


@lru_cache(maxsize=1024)
def read_health_check(text: str) -> tuple[HealthCheck, tuple[Problem, ...]]:
    """The annotation's text as a health check, with what is wrong with it."""
    problems = Problems()
    at = problems.at("metadata", "annotations", ANNOTATION)
    if len(text) > _LARGEST:
        at.error(f"must have at most {_LARGEST} characters")
        return HealthCheck(), tuple(problems.found)
    loaded = load_documents(text)
    documents = [document.data for document in loaded.documents]
    if loaded.error is not None or len(documents) != 1 or loaded.documents[0].mistakes:
        at.error(
            "must be one mapping in YAML or JSON, such as {http: {path: /healthz}, interval: 5s}"
        )
        return HealthCheck(), tuple(problems.found)
    check = decode(HealthCheck, documents[0], at)
    if not problems.found and check.http is None and check.tcp is None and check.grpc is None:
        at.error("must have one of http, tcp and grpc")
    return check, tuple(problems.found)
