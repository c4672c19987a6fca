"""ProxyConfig: settings of the proxies themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dockermesh.config.api.common import LabelSelector
from dockermesh.config.fields import Int32, Length, Range


@dataclass(frozen=True, slots=True)
class ProxyImage:
    """The variant of the proxy's image."""

    image_type: str = ""


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Settings of the selected proxies (None: all of the namespace); concurrency 0 is one thread
    per CPU.
    """

    # Istio has it; here nothing would come of it, about which a warning is given.
    IGNORED: ClassVar = frozenset({"connectionSettings"})

    selector: LabelSelector | None = None
    concurrency: Annotated[Int32, Range(0, 2**31 - 1)] | None = None
    environment_variables: Mapping[str, Annotated[str, Length(high=2048)]] = field(
        default_factory=dict
    )
    image: ProxyImage | None = None
