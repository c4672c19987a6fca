"""The bound: a grpc.aio server that only sends shared bytes. No subscriptions, no versions, no
order, no ACK check.

It knows a request for what it is by searching the type URL in it, answers each type once with
everything, and after a change sends the one resource that changed to every stream.

    python bare.py SERVICES XDS_PORT HTTP_PORT
"""

from __future__ import annotations

import asyncio
import os
import sys

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
import mesh
from control import listen
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

TYPES = {
    "cds": b"type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "eds": b"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "lds": b"type.googleapis.com/envoy.config.listener.v3.Listener",
    "rds": b"type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class Bare:
    """Shared bytes and the streams that get them."""

    def __init__(self, services: int) -> None:
        names = [mesh.name(i) for i in range(services)]
        self.at = {n: mesh.addresses(i) for i, n in enumerate(names)}
        self.bodies = {
            "cds": {n: mesh.cluster(n) for n in names},
            "eds": {n: mesh.assignment(n, self.at[n]) for n in names},
            "lds": {"8080": mesh.listener()},
            "rds": {"8080": mesh.routes(services)},
        }
        self.version = 1
        self.full = {
            (t, d): self.build(t, self.bodies[t], d)
            for t in TYPES
            for d in (True, False)
        }
        self.last: dict[bool, bytes] = {}
        self.changed = asyncio.Event()

    def build(self, kind: str, bodies: dict[str, bytes], delta: bool) -> bytes:
        url = TYPES[kind].decode()
        version = str(self.version)
        packed = {n: any_pb2.Any(type_url=url, value=b) for n, b in bodies.items()}
        if delta:
            resources = [
                discovery_pb2.Resource(name=n, version=version, resource=a)
                for n, a in packed.items()
            ]
            delta_response = discovery_pb2.DeltaDiscoveryResponse(
                type_url=url, nonce=version, resources=resources
            )
            return bytes(delta_response.SerializeToString())
        response = discovery_pb2.DiscoveryResponse(
            type_url=url, nonce=version, version_info=version
        )
        response.resources.extend(packed.values())
        return bytes(response.SerializeToString())

    def change(self, op: str, service: str, ip: str) -> None:
        self.at[service] = [a for a in self.at[service] if a != ip] + (
            [ip] if op == "add" else []
        )
        self.version += 1
        one = {service: mesh.assignment(service, self.at[service])}
        self.last = {d: self.build("eds", one, d) for d in (True, False)}
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    async def serve(self, context: grpc.aio.ServicerContext, delta: bool) -> None:
        async def write() -> None:
            while True:
                await self.changed.wait()
                await context.write(self.last[delta])

        writer = asyncio.create_task(write())
        answered = set()
        try:
            while (raw := await context.read()) is not grpc.aio.EOF:
                kind = next(t for t, url in TYPES.items() if url in raw)
                # The client asks for endpoints and routes with their names, and acknowledges with
                # the nonce.
                if kind not in answered:
                    answered.add(kind)
                    await context.write(self.full[kind, delta])
        finally:
            writer.cancel()


class Handlers(grpc.GenericRpcHandler):
    def __init__(self, bare: Bare) -> None:
        async def delta(_requests: object, context: grpc.aio.ServicerContext) -> None:
            await bare.serve(context, True)

        async def sotw(_requests: object, context: grpc.aio.ServicerContext) -> None:
            await bare.serve(context, False)

        self.methods = {
            f"/{SERVICE}/DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                delta
            ),
            f"/{SERVICE}/StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                sotw
            ),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self.methods.get(details.method)


async def main(services: int, port: int, http: int) -> None:
    bare = Bare(services)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(bare),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await listen(http, bare.change)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
