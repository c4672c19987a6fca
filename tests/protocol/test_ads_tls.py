"""The TLS port: served to a client that verifies it, closed to one that speaks plaintext."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import discovery_pb2
from patience import SLACK

from dockermesh.xds import CLUSTER, AdsServer, NodeInfo, Snapshot

METHOD = (
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
)


def self_signed() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain
    )
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("secure", [True, False])
async def test_tls(secure: bool) -> None:
    seen: list[Mapping[str, str]] = []

    async def authorize(metadata: Mapping[str, str], node: NodeInfo, _peer: str) -> str:
        seen.append(metadata)
        return node.id

    key, certificate = self_signed()
    server = AdsServer(authorize=authorize)
    port = server.add_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)])
    )
    server.publish(lambda _proxy: Snapshot())
    await server.start()
    target = f"localhost:{port}"
    if secure:
        channel = grpc.aio.secure_channel(
            target, grpc.ssl_channel_credentials(certificate)
        )
    else:
        channel = grpc.aio.insecure_channel(target)
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER)
    request.node.id = "a"
    async with channel, asyncio.timeout(10 * SLACK):
        call = channel.stream_stream(METHOD)(metadata=(("authorization", "Bearer t"),))
        if secure:
            await call.write(request.SerializeToString())
            assert (
                discovery_pb2.DeltaDiscoveryResponse.FromString(
                    await call.read()
                ).type_url
                == CLUSTER
            )
            assert seen[0]["authorization"] == "Bearer t"
        else:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert not seen
        call.cancel()
    await server.stop(1)
