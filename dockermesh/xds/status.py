"""What is known about a connected proxy, for `ps` and `/debug/syncz`. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from dockermesh.xds.protobuf import Malformed


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who a proxy says it is; nothing of it is proven before `authorize` returned."""

    id: str
    cluster: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    locality: str = ""
    user_agent_version: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> NodeInfo:
        """The serialised envoy.config.core.v3.Node; raises Malformed."""
        try:
            node = base_pb2.Node.FromString(raw)
            metadata = MessageToDict(node.metadata)
        except (DecodeError, ValueError, RecursionError) as e:
            raise Malformed("the node cannot be read") from e

        place = (node.locality.region, node.locality.zone, node.locality.sub_zone)
        # Envoy says its version in numbers, other clients as a text.
        build = node.user_agent_build_version.version
        version = (
            node.user_agent_version
            or f"{build.major_number}.{build.minor_number}.{build.patch}"
        )
        return cls(
            node.id, node.cluster, metadata, "/".join(place).rstrip("/"), version
        )


class SyncState(StrEnum):
    """How far a proxy is with one type; the words are istioctl's."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NOT_SENT = "NOT SENT"
    NACKED = "NACKED"


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One type of one proxy."""

    type_url: str
    state: SyncState
    sent_version: str = ""
    nonce: str = ""
    acked_version: str = ""
    error: str = ""
    error_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ConnectedProxy:
    """A connected proxy: the key that `authorize` gave it, and its node."""

    key: str
    node: NodeInfo
    peer: str = ""
    delta: bool = True
    connected_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """A connected proxy and how far it is."""

    proxy: ConnectedProxy
    types: tuple[TypeStatus, ...] = ()

    @property
    def state(self) -> SyncState:
        """The worst of its types."""
        states = {t.state for t in self.types}
        for worst in (SyncState.NACKED, SyncState.STALE):
            if worst in states:
                return worst
        return SyncState.SYNCED if SyncState.SYNCED in states else SyncState.NOT_SENT
