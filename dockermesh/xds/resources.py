"""Envoy resources as bytes: each is serialised once and framed once for both protocols.

Invariant: a `Resource` never changes, and its version depends on nothing but its body, so that
replicas and restarts of the control plane agree on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from dockermesh.xds.protobuf import (
    Malformed,
    fields,
    frame,
    header,
    submessage,
    text,
)

_PREFIX = "type.googleapis.com/envoy."
CLUSTER = _PREFIX + "config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "config.endpoint.v3.ClusterLoadAssignment"
LISTENER = _PREFIX + "config.listener.v3.Listener"
ROUTES = _PREFIX + "config.route.v3.RouteConfiguration"
SECRET = _PREFIX + "extensions.transport_sockets.tls.v3.Secret"
EXTENSION = _PREFIX + "config.core.v3.TypedExtensionConfig"

# Numbers in envoy.config.cluster.v3.Cluster, and of the service_name in its EdsClusterConfig.
_DISCOVERY_TYPE, _EDS_CLUSTER_CONFIG, _SERVICE_NAME = 2, 3, 2
_EDS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One Envoy resource.

    `any_bytes` is a serialised google.protobuf.Any, never shown: it may hold a private key. The
    heads and the tail are what has to stand around it in a response of either protocol; `digest` is
    what it adds to the hash of a set. `eds_name` is set on clusters that take their endpoints from
    EDS: the name under which they ask for them.
    """

    name: str
    version: str
    any_bytes: bytes = field(repr=False)
    sotw_head: bytes
    delta_head: bytes
    delta_tail: bytes
    digest: int
    eds_name: str = ""


def make_resource(type_url: str, name: str, message_bytes: bytes) -> Resource:
    """The resource `name`, whose message of type `type_url` is already serialised."""
    # The Any as protobuf itself would write it: an empty field is left out.
    any_bytes = frame(1, type_url.encode()) + (
        frame(2, message_bytes) if message_bytes else b""
    )
    version = blake2b(message_bytes, digest_size=8).hexdigest()
    # In a Resource of delta 1 is the version, 2 the Any, 3 the name; in either response 2 is the
    # list of resources.
    head, tail = (
        frame(1, version.encode()) + header(2, len(any_bytes)),
        frame(3, name.encode()),
    )
    size = len(head) + len(any_bytes) + len(tail)

    return Resource(
        name=name,
        version=version,
        any_bytes=any_bytes,
        sotw_head=header(2, len(any_bytes)),
        delta_head=header(2, size) + head,
        delta_tail=tail,
        digest=int.from_bytes(
            # No name has a NUL, so no other name and version give the same text.
            blake2b(f"{name}\0{version}".encode(), digest_size=12).digest(),
            "big",
        ),
        eds_name=_eds_name(message_bytes, name) if type_url == CLUSTER else "",
    )


def _eds_name(cluster: bytes, name: str) -> str:
    try:
        given = dict(fields(cluster))
        if given.get(_DISCOVERY_TYPE) != _EDS:
            return ""
        eds = dict(fields(submessage(given.get(_EDS_CLUSTER_CONFIG, b""))))
        return text(eds.get(_SERVICE_NAME, b"")) or name
    except Malformed as e:
        raise ValueError(f"not a serialised Cluster: {name}") from e
