"""A control plane that is nothing but our AdsServer and a synthetic mesh.

python server.py SERVICES XDS_PORT HTTP_PORT
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping

import mesh
import structlog
from control import listen

from dockermesh import xds

structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING)
)


async def authorize(
    _metadata: Mapping[str, str], node: xds.NodeInfo, _peer: str
) -> str:
    return node.id


async def main(services: int, port: int, http: int) -> None:
    names = [mesh.name(i) for i in range(services)]
    at = {n: mesh.addresses(i) for i, n in enumerate(names)}
    endpoints = {
        n: xds.make_resource(xds.ENDPOINTS, n, mesh.assignment(n, at[n])) for n in names
    }
    clusters = xds.ResourceSet(
        xds.make_resource(xds.CLUSTER, n, mesh.cluster(n)) for n in names
    )
    listeners = xds.ResourceSet(
        [xds.make_resource(xds.LISTENER, "8080", mesh.listener())]
    )
    routes = xds.ResourceSet(
        [xds.make_resource(xds.ROUTES, "8080", mesh.routes(services))]
    )
    server = xds.AdsServer(authorize=authorize)

    def publish() -> None:
        snapshot = xds.Snapshot(
            clusters, xds.ResourceSet(endpoints.values()), listeners, routes
        )
        server.publish(lambda _proxy: snapshot)

    def change(op: str, service: str, ip: str) -> None:
        at[service] = [a for a in at[service] if a != ip] + (
            [ip] if op == "add" else []
        )
        endpoints[service] = xds.make_resource(
            xds.ENDPOINTS, service, mesh.assignment(service, at[service])
        )
        publish()

    publish()
    server.add_port(f"127.0.0.1:{port}")
    await server.start()
    await listen(http, change)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
