"""Words for writing the API types: bounded numbers, required fields and the names a field has in
YAML.

The types in `api/` are plain frozen dataclasses; what a decoder must know beyond the Python type is
said here, either in `Annotated[...]` or in the metadata of a field. Field names are Istio's in
snake_case; YAML has them in lowerCamelCase (`json_name`). A default is the one of Istio's API, so
an absent field and an empty one are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass
from datetime import timedelta
from typing import Annotated, Any


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest number allowed."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Length:
    """Smallest and largest number of characters, items or entries allowed."""

    low: int = 0
    high: int = 2**31


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The shortest duration allowed; it must be a whole number of milliseconds, too."""

    minimum: timedelta


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the text must match."""

    expression: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Quotable:
    """A number that may be in quotes, as protobuf's JSON allows; Kubernetes' resources do not."""


Int32 = Annotated[int, Range(-(2**31), 2**31 - 1)]
UInt32 = Annotated[int, Range(0, 2**32 - 1)]
Int64 = Annotated[int, Range(-(2**63), 2**63 - 1)]
UInt64 = Annotated[int, Range(0, 2**64 - 1)]
PortNumber = Annotated[int, Range(1, 65535)]
Duration = Annotated[timedelta, AtLeast(timedelta(milliseconds=1))]
NonEmpty = Annotated[str, Length(low=1)]

REQUIRED: Mapping[str, Any] = {"required": True}
"""Metadata of a field that YAML must name."""


def json_name(field: Field[Any]) -> str:
    """The name of the field in YAML: given in its metadata, else its Python name in
    lowerCamelCase.
    """
    given: str | None = field.metadata.get("json")
    return given if given is not None else camel_case(field.name)


def camel_case(name: str) -> str:
    """`connect_timeout` as `connectTimeout`, by protobuf's rule for JSON names."""
    # protobuf's rule: a digit after an underscore loses it, too.
    return re.sub(r"_([a-z0-9])", lambda match: match.group(1).upper(), name)
