"""Resource: the envelope of every typed piece of configuration, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dockermesh.model.contract import LABEL_GENERATED

SpecT_co = TypeVar("SpecT_co", covariant=True)

DEFAULT_NAMESPACE = "default"
GENERATED_LABEL = LABEL_GENERATED
"""Set to "true" on what was made for a published port: a default, which yields to what the user
says.
"""


@dataclass(frozen=True, slots=True)
class Location:
    """A line of a file; line 0 when it is unknown, no file when it came through the API."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Resource(Generic[SpecT_co]):
    """One resource of Istio's API.

    `spec` is a class of `api/`; `api_version` is what the document said
    (`networking.istio.io/v1alpha3`). `created` is the creation timestamp in RFC 3339 (empty:
    unknown), by which Istio settles conflicts. `document` is the raw document; it is not compared,
    so equal resources from two files are equal.
    """

    kind: str
    api_version: str
    name: str
    namespace: str
    spec: SpecT_co
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    resource_version: str = ""
    created: str = ""
    location: Location = field(default_factory=Location, compare=False)
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def is_generated(self) -> bool:
        """Whether `dockermesh inject` made it."""
        return self.labels.get(GENERATED_LABEL) == "true"

    def location_of(self, *path: str | int) -> Location:
        """Where a part of the document is, for example `location_of("spec", "http", 0)`."""
        from dockermesh.config.loading import line_of

        return Location(
            self.location.file, line_of(self.document, path) or self.location.line
        )
