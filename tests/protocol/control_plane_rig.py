"""A whole control plane in this process, over a Consul of its own, and the clients that speak xDS
with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
from bridge_rig import Agent, eventually
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from patience import SLACK
from ports import free_ports

from dockermesh.controlplane.control_plane import ControlPlane
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.model import Workload
from dockermesh.xds import SECRET

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"


def token_of(name: str) -> str:
    return hashlib.sha256(f"the token of {name}".encode()).hexdigest()


def node_id(name: str, namespace: str = "default") -> str:
    return f"sidecar~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local"


def workload(name: str, **fields: Any) -> Workload:
    digest = hashlib.sha256(token_of(name).encode()).hexdigest()
    service = name.rpartition("/")[2].rpartition("-")[0]
    base = Workload(
        id=f"pod-{name}",
        name=name,
        service=service,
        address="127.0.0.1",
        token_sha256=digest,
    )
    return replace(base, **fields)


class Running:
    """A control plane that serves."""

    def __init__(
        self, plane: ControlPlane, settings: ControlPlaneSettings, agent: Agent
    ) -> None:
        self.plane = plane
        self.settings = settings
        self.agent = agent

    @property
    def token(self) -> str:
        return (self.settings.state_dir / "api.token").read_text()

    async def add(self, *workloads: Workload) -> None:
        """Write workloads as a registrar would, and wait until the control plane knows them."""
        for item in workloads:
            await self.agent.put(
                f"kv/dockermesh/workloads/test-host/{item.name}", item.to_dict()
            )
        await eventually(
            lambda: all(
                self.plane.catalog().workloads.get(w.name) == w for w in workloads
            ),
            10,
        )

    async def remove(self, item: Workload) -> None:
        """Take a workload's record away, as its registrar would, and wait until that is known."""
        await self.agent.delete(f"kv/dockermesh/workloads/test-host/{item.name}")
        await eventually(lambda: item.name not in self.plane.catalog().workloads, 10)

    async def ask(
        self, method: str, path: str, bearer: str | None = None, **body: object
    ) -> tuple[int, Any]:
        """A request to the API: its status and its JSON."""
        headers = {
            "Authorization": f"Bearer {self.token if bearer is None else bearer}"
        }
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.request(
                method, f"http://{self.settings.api}{path}", json=body or None
            ) as answer,
        ):
            return answer.status, json.loads(await answer.text())

    def stream(
        self,
        name: str = "",
        *,
        token: str | None = None,
        node: str = "",
        delta: bool = True,
    ) -> Stream:
        """A proxy's stream, opened at the first request."""
        bearer = token_of(name) if token is None else token
        metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        root = (self.settings.trust_dir / "root.pem").read_bytes()
        return Stream(
            self.settings.xds, root, metadata, node or node_id(name), delta=delta
        )


class Stream:
    """One ADS stream; as context it closes itself."""

    def __init__(
        self,
        address: str,
        root: bytes | None,
        metadata: tuple[tuple[str, str], ...],
        node: str,
        *,
        delta: bool,
    ) -> None:
        target = f"localhost:{address.rpartition(':')[2]}"
        if root is None:
            self._channel = grpc.aio.insecure_channel(target)
        else:
            self._channel = grpc.aio.secure_channel(
                target, grpc.ssl_channel_credentials(root)
            )
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        self._call = self._channel.stream_stream(ADS + method)(metadata=metadata)
        self._delta = delta
        self._node = node

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def ask(self, *names: str, type_url: str = SECRET) -> None:
        if self._delta:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names
            )
        else:
            request = discovery_pb2.DiscoveryRequest(
                type_url=type_url, resource_names=names
            )
        request.node.id = self._node
        await self._call.write(request.SerializeToString())

    async def answer(self, refusal: str = "") -> Any:
        """The next response, acknowledged, or refused with these words."""
        async with asyncio.timeout(20 * SLACK):
            raw = await self._call.read()
        if raw is grpc.aio.EOF:
            raise AssertionError(
                f"the stream ended: {await self._call.code()} {await self._call.details()}"
            )
        if self._delta:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(raw)
            ack = discovery_pb2.DeltaDiscoveryRequest(
                type_url=response.type_url, response_nonce=response.nonce
            )
        else:
            response = discovery_pb2.DiscoveryResponse.FromString(raw)
            ack = discovery_pb2.DiscoveryRequest(
                type_url=response.type_url,
                response_nonce=response.nonce,
                version_info=response.version_info,
                resource_names=list(secrets_in(response)),
            )
        if refusal:
            ack.error_detail.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            ack.error_detail.message = refusal
        await self._call.write(ack.SerializeToString())
        return response

    async def secrets(self, *names: str) -> dict[str, secret_pb2.Secret]:
        await self.ask(*names)
        return secrets_in(await self.answer())

    async def refusal(self, *names: str) -> tuple[grpc.StatusCode, str]:
        """The status with which the stream ends; fails if anything was sent before."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self.ask(*names)
            async with asyncio.timeout(20 * SLACK):
                sent = await self._call.read()
            assert sent is grpc.aio.EOF, (
                "bytes were sent to a proxy that is to be refused"
            )
        return await self._call.code(), await self._call.details()


def secrets_in(response: Any) -> dict[str, secret_pb2.Secret]:
    """The secrets of a response of either protocol."""
    found: Iterable[Any] = (
        getattr(item, "resource", item) for item in response.resources
    )
    secrets = [secret_pb2.Secret.FromString(item.value) for item in found]
    return {secret.name: secret for secret in secrets}


def certificates(secret: secret_pb2.Secret) -> list[x509.Certificate]:
    """The chain or the roots in a secret."""
    pem = (
        secret.tls_certificate.certificate_chain.inline_bytes
        or secret.validation_context.trusted_ca.inline_bytes
    )
    return x509.load_pem_x509_certificates(pem)


def identity_in(certificate: x509.Certificate) -> list[str]:
    """The URIs that a certificate names."""
    names = certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def settings_for(folder: Path, agent: Agent, **changes: Any) -> ControlPlaneSettings:
    xds, api, debug = free_ports(3)
    base = ControlPlaneSettings(
        consul=replace(agent.settings, allow_loopback=True),
        state_dir=folder / "state",
        trust_dir=folder / "trust",
        xds=f"127.0.0.1:{xds}",
        api=f"127.0.0.1:{api}",
        debug=f"127.0.0.1:{debug}",
    )
    return replace(base, **changes)


@contextlib.asynccontextmanager
async def control_plane(
    folder: Path, agent: Agent, **changes: Any
) -> AsyncIterator[Running]:
    """A control plane that is ready, stopped at the end."""
    settings = settings_for(folder, agent, **changes)
    plane, stop = ControlPlane(settings), asyncio.Event()
    task = asyncio.create_task(plane.run(stop))
    try:
        await eventually(lambda: task.done() or not plane.readiness(), 20)
        if task.done():
            task.result()
        yield Running(plane, settings, agent)
    finally:
        stop.set()
        await task
