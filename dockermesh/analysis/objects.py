"""Objects in files, of Istio or of Kubernetes, and how analyzers look into them without stumbling.

Kubernetes' own objects are read as data: they are context for the findings, never an error of their
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.config.loading import line_of

CLUSTER_SCOPED = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "GatewayClass",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "StorageClass",
        "ValidatingWebhookConfiguration",
    }
)
"""Kinds that are in no namespace."""


@dataclass(frozen=True, slots=True)
class AnalyzedObject:
    """One object. `spec` is a class of `config/api` for Istio's kinds (as far as it could be read),
    else None.
    """

    kind: str
    group: str
    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    line: int = 0
    spec: Any = None

    @property
    def full_name(self) -> str:
        """`namespace/name`, or the name of what is in no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def title(self) -> str:
        """`Kind namespace/name`, as istioctl writes it."""
        return f"{self.kind} {self.full_name}"

    def line_at(self, *path: str | int) -> int:
        """The line of a field, or of the closest one above it."""
        return line_of(self.body, path) or self.line


def dig(data: Any, *path: str) -> Any:
    """What is at a path of mappings; None if anything on the way is missing or no mapping."""
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def texts(value: Any) -> dict[str, str]:
    """A mapping of labels; what is no text is left out."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): entry for key, entry in value.items() if isinstance(entry, str)}


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings in a list."""
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, Mapping))


def number(value: Any) -> int:
    """A port number; 0 for anything else."""
    # For Python, true is a number.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    # A port may be a name, which is no number.
    return (
        int(value)
        if isinstance(value, str) and value.isdecimal() and len(value) < 6
        else 0
    )


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels carry all that a selector wants; an empty selector takes everything."""
    return all(labels.get(key) == value for key, value in selector.items())


def selector_text(selector: Mapping[str, str]) -> str:
    """A selector as kubectl writes it, in order."""
    return ",".join(f"{key}={selector[key]}" for key in sorted(selector))


def label_selector_matches(selector: Any, labels: Mapping[str, str]) -> bool:
    """Kubernetes' LabelSelector with matchLabels and matchExpressions; a missing one takes
    everything.
    """
    if not selects(texts(dig(selector, "matchLabels")), labels):
        return False
    return all(
        _holds(entry, labels) for entry in mappings(dig(selector, "matchExpressions"))
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator = str(expression.get("key")), expression.get("operator")
    given = expression.get("values")
    values = given if isinstance(given, list) else []
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":
        return key not in labels or labels[key] not in values
    if operator == "Exists":
        return key in labels
    return operator == "DoesNotExist" and key not in labels
