"""Proxies by the hundred: streams that speak delta ADS as Envoy does, over TLS with a token, and
acknowledge what they get.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2

from dockermesh.model import Workload
from dockermesh.xds import CLUSTER, ENDPOINTS, LISTENER, SECRET

METHOD = (
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
)


def token_of(name: str) -> str:
    """The token of a proxy that is not real."""
    return hashlib.sha256(f"the token of {name}".encode()).hexdigest()


def record_of(name: str, address: str) -> Workload:
    """Its workload; `address` is where its connection comes from."""
    digest = hashlib.sha256(token_of(name).encode()).hexdigest()
    service = name.rpartition("/")[2].rpartition("-")[0]
    return Workload(
        id=f"pod-{name}",
        name=name,
        service=service,
        address=address,
        token_sha256=digest,
    )


class FakeProxy:
    """One proxy on a connection of its own."""

    def __init__(self, name: str, targets: Sequence[str], trust: Path) -> None:
        self.name, self._targets, self._trust = name, targets, trust
        self.held: dict[str, dict[str, str]] = {}
        """Type to resource name to version, kept from one stream to the next."""
        self.synced = asyncio.Event()
        self.certificates: list[tuple[float, x509.Certificate]] = []
        self.responses = 0
        self.received = 0
        self.attempts = 0
        self._call: grpc.aio.StreamStreamCall | None = None

    async def run(self) -> None:
        """Connect, and whenever the stream ends do it again."""
        while True:
            target = self._targets[self.attempts % len(self._targets)]
            self.attempts += 1
            credentials = grpc.ssl_channel_credentials(
                (self._trust / "root.pem").read_bytes()
            )
            options = (
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.ssl_target_name_override", "control-plane.dockermesh"),
                ("grpc.max_receive_message_length", -1),
            )
            async with grpc.aio.secure_channel(target, credentials, options) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.TimeoutError):
                    await self._stream(channel)
            self.synced.clear()
            await asyncio.sleep(0.2 + hash((self.name, self.attempts)) % 1000 / 1000)

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        metadata = (("authorization", f"Bearer {token_of(self.name)}"),)
        self._call = channel.stream_stream(METHOD)(metadata=metadata)
        await self._subscribe(CLUSTER, "*", first=True)
        await self._subscribe(LISTENER, "*")
        await self._subscribe(SECRET, "default", "ROOTCA")
        names = self.held.get(ENDPOINTS)
        if names:
            await self._subscribe(ENDPOINTS, *names)
        asked_at = time.monotonic()
        while True:
            raw = await self._call.read()
            if raw is grpc.aio.EOF:
                return
            await self._take(discovery_pb2.DeltaDiscoveryResponse.FromString(raw))
            if time.monotonic() - asked_at > 0 and self._is_synced():
                self.synced.set()

    async def _subscribe(self, type_url: str, *names: str, first: bool = False) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_url,
            resource_names_subscribe=names,
            initial_resource_versions=self.held.get(type_url, {}),
        )
        if first:
            domain = "default.svc.cluster.local"
            request.node.id = f"sidecar~10.77.0.1~{self.name}.default~{domain}"
        await self._write(request)

    async def _take(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        kind = self.held.setdefault(response.type_url, {})
        fresh = [r.name for r in response.resources if r.name not in kind]
        kind |= {r.name: r.version for r in response.resources}
        for gone in response.removed_resources:
            kind.pop(gone, None)
        self.responses += 1
        self.received += len(response.resources)
        if response.type_url == SECRET:
            self._note(response)
        ack = discovery_pb2.DeltaDiscoveryRequest(
            type_url=response.type_url, response_nonce=response.nonce
        )
        await self._write(ack)
        if response.type_url == CLUSTER and fresh:
            await self._subscribe(ENDPOINTS, *fresh)

    def _note(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        for item in response.resources:
            if item.name == "default":
                secret = secret_pb2.Secret.FromString(item.resource.value)
                chain = secret.tls_certificate.certificate_chain.inline_bytes
                leaf = x509.load_pem_x509_certificates(chain)[0]
                self.certificates.append((time.time(), leaf))

    def _is_synced(self) -> bool:
        return all(
            self.held.get(kind) for kind in (CLUSTER, LISTENER, SECRET, ENDPOINTS)
        )

    async def _write(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        assert self._call is not None
        await self._call.write(request.SerializeToString())


@contextlib.asynccontextmanager
async def fleet(
    names: Sequence[str], targets: Sequence[str], trust: Path
) -> AsyncIterator[list[FakeProxy]]:
    """So many proxies, which connect all at once."""
    made = [FakeProxy(name, targets, trust) for name in names]
    running = [asyncio.create_task(proxy.run()) for proxy in made]
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.asynccontextmanager
async def raw_stream(
    target: str, trust: Path, name: str
) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """One stream, on which bytes are written and read as they are."""
    credentials = grpc.ssl_channel_credentials((trust / "root.pem").read_bytes())
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.ssl_target_name_override", "control-plane.dockermesh"),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    )
    metadata = (("authorization", f"Bearer {token_of(name)}"),)
    async with grpc.aio.secure_channel(target, credentials, options) as channel:
        call = channel.stream_stream(METHOD)(metadata=metadata)
        yield call
        call.cancel()


__all__ = ["FakeProxy", "fleet", "raw_stream", "record_of", "token_of"]
