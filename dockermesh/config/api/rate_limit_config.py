"""RateLimitConfig: files of `envoyproxy/ratelimit`, as its ConfigMap holds them, and what is in
them.

Names of fields in the files are of that project, in snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from dockermesh.config.fields import REQUIRED, Length, UInt32

_Name = Annotated[str, Length(high=256)]
_Text = Annotated[str, Length(high=1 << 20)]


def _named(name: str) -> Any:
    return {"json": name}


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """What a limiter that proxies call as `ratelimit.<namespace>` answers by."""

    # The content of each, by its name.
    files: Annotated[Mapping[str, _Text], Length(high=64)] = field(
        default_factory=dict, metadata=REQUIRED
    )


@dataclass(frozen=True, slots=True)
class FileReplaces:
    """A limit that does not count beside another one."""

    name: _Name = field(default="", metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class FileRate:
    """So many requests in a unit of time, or as many as there are."""

    unit: str = ""
    requests_per_unit: UInt32 = field(default=0, metadata=_named("requests_per_unit"))
    unlimited: bool = False
    name: _Name = ""
    replaces: Annotated[tuple[FileReplaces, ...], Length(high=64)] = ()


@dataclass(frozen=True, slots=True)
class FileDescriptor:
    """An entry of descriptors, what counts where it is the last one, and what may follow it."""

    key: _Name = field(default="", metadata=REQUIRED)
    # None: any; `a*` any that begins so.
    value: str | None = None
    rate_limit: FileRate | None = field(default=None, metadata=_named("rate_limit"))
    descriptors: tuple[FileDescriptor, ...] = ()
    shadow_mode: bool = field(default=False, metadata=_named("shadow_mode"))
    detailed_metric: bool = field(default=False, metadata=_named("detailed_metric"))
    share_threshold: bool = field(default=False, metadata=_named("share_threshold"))


@dataclass(frozen=True, slots=True)
class LimitFile:
    """A file: the limits of one domain."""

    ONEOFS: ClassVar = ()
    domain: _Name = field(default="", metadata=REQUIRED)
    descriptors: tuple[FileDescriptor, ...] = ()
