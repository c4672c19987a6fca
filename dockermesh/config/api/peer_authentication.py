"""PeerAuthentication: whether a workload accepts plaintext, mutual TLS, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from dockermesh.config.api.common import LabelSelector
from dockermesh.config.fields import Length, PortNumber


class MutualTlsMode(StrEnum):
    """What a server accepts."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    # Both are taken, so that clients can be brought into the mesh one by one.
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True)
class MutualTls:
    """The mode; UNSET inherits."""

    mode: MutualTlsMode = MutualTlsMode.UNSET


@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """The mode of the selected workloads (None: all of the namespace), and of single workload
    ports.
    """

    selector: LabelSelector | None = None
    mtls: MutualTls | None = None
    # Ports of the workload, not of its services.
    port_level_mtls: Annotated[Mapping[PortNumber, MutualTls], Length(low=1)] | None = (
        None
    )
