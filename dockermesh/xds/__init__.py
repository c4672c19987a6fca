"""xDS: serves Envoy resources, given as bytes, to proxies. Knows nothing of Istio, Consul or who
may have what.

How to use it (everything on one event loop)::

    # The proxy's key; raises Refused(code, message).
    async def authorize(metadata, node: NodeInfo, peer) -> str:
        ...

    server = AdsServer(authorize=authorize, on_nack=lambda proxy, type_url, nack: ...)
    server.add_port("0.0.0.0:15012", credentials)                 # without credentials: plaintext
    await server.start()
    server.publish(lambda proxy: snapshots.get(proxy.key))        # again after every change
    ...
    await server.stop()

`publish(lookup)` calls `lookup(ConnectedProxy) -> Snapshot | None` once for every stream, and for
each that opens later; it must be O(1). None means that nothing is known yet: the proxy gets no
answer, and keeps what it has. The same `Snapshot` object as before costs nothing.

A `Snapshot` has a `ResourceSet` per type: `clusters`, `endpoints`, `listeners`, `routes`,
`secrets`, `extensions`. `ResourceSet(resources, base=shared)` layers a proxy's own few resources
over the set that all proxies share; keep the same `ResourceSet` object for what did not change.
`make_resource(type_url, name, message_bytes)` makes a `Resource`; the type URLs are `CLUSTER`,
`ENDPOINTS`, `LISTENER`, `ROUTES`, `SECRET`, `EXTENSION`. Keep `Resource` objects, too.

`proxies()` lists who is connected and how far (`ProxyStatus`), `sync()` is the O(1) summary,
`metrics` counts. `disconnect(key, message)` ends the stream of a proxy that lost its right.

Invariant: the response to a change is built once, and all streams share its bytes.
"""

from __future__ import annotations

from dockermesh.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
    make_resource,
)
from dockermesh.xds.server import AdsServer, Authorize, Lookup, OnNack, Refused, Sync
from dockermesh.xds.snapshot import EMPTY, ResourceSet, Snapshot
from dockermesh.xds.status import (
    ConnectedProxy,
    NodeInfo,
    ProxyStatus,
    SyncState,
    TypeStatus,
)
from dockermesh.xds.stream import Metrics
from dockermesh.xds.subscription import Nack

__all__ = [
    "CLUSTER",
    "EMPTY",
    "ENDPOINTS",
    "EXTENSION",
    "LISTENER",
    "ROUTES",
    "SECRET",
    "AdsServer",
    "Authorize",
    "ConnectedProxy",
    "Lookup",
    "Metrics",
    "Nack",
    "NodeInfo",
    "OnNack",
    "ProxyStatus",
    "Refused",
    "Resource",
    "ResourceSet",
    "Snapshot",
    "Sync",
    "SyncState",
    "TypeStatus",
    "make_resource",
]
