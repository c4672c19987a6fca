"""Over its stream a proxy gets its own certificate and the roots, nobody else's, and a new one at
half-life.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from bridge_rig import Agent
from control_plane_rig import (
    Running,
    Stream,
    certificates,
    control_plane,
    identity_in,
    node_id,
    secrets_in,
    token_of,
    workload,
)
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs

from dockermesh.xds import CLUSTER

REVIEWS, RATINGS = (
    workload("shop/reviews-1", service_account="bookinfo-reviews"),
    workload("shop/ratings-1"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("mesh")
    async with (
        Agent() as agent,
        control_plane(folder, agent, xds_plaintext="127.0.0.1:0") as running,
    ):
        await running.add(REVIEWS, RATINGS)
        yield running


pytestmark = [pytest.mark.consul, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
async def test_a_proxy_gets_its_own_certificate_and_the_roots(
    mesh: Running, delta: bool
) -> None:
    async with mesh.stream("shop/reviews-1", delta=delta) as stream:
        got = await stream.secrets("default", "ROOTCA")
    assert got.keys() == {"default", "ROOTCA"}
    leaf, *_ = certificates(got["default"])
    assert identity_in(leaf) == [
        "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
    ]
    key = serialization.load_pem_private_key(
        got["default"].tls_certificate.private_key.inline_bytes, None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == leaf.public_key()
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    now = datetime.datetime.now(datetime.UTC)
    assert leaf.not_valid_before_utc <= now - datetime.timedelta(minutes=2)
    assert leaf.not_valid_after_utc <= now + datetime.timedelta(hours=24)
    roots = certificates(got["ROOTCA"])
    leaf.verify_directly_issued_by(roots[0])
    assert roots == x509.load_pem_x509_certificates(
        (mesh.settings.trust_dir / "root.pem").read_bytes()
    )


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
async def test_the_secrets_of_others_are_denied_and_logged(
    mesh: Running, delta: bool
) -> None:
    foreign = "spiffe://cluster.local/ns/default/sa/ratings"
    with capture_logs() as logs:
        async with mesh.stream("shop/reviews-1", delta=delta) as stream:
            got = await stream.secrets(
                "default", foreign, "shop/ratings-1", "line\nforged"
            )
    assert got.keys() == {"default"}
    [denied] = [line for line in logs if line["event"] == "secrets denied"]
    assert denied["proxy"] == "shop/reviews-1"
    assert ascii(foreign) in denied["names"]
    assert not any("\n" in name for name in denied["names"])


async def test_a_reconnecting_proxy_gets_the_certificate_that_it_had(
    mesh: Running,
) -> None:
    async with mesh.stream("shop/reviews-1") as stream:
        first = await stream.secrets("default")
    async with mesh.stream("shop/reviews-1") as stream:
        assert await stream.secrets("default") == first


async def test_replicas_have_one_identity_and_their_own_keys(mesh: Running) -> None:
    await mesh.add(workload("shop/reviews-2", service_account="bookinfo-reviews"))
    leaves = []
    for name in ("shop/reviews-1", "shop/reviews-2"):
        async with mesh.stream(name) as stream:
            leaves.append(certificates((await stream.secrets("default"))["default"])[0])
    assert identity_in(leaves[0]) == identity_in(leaves[1])
    assert leaves[0].public_key() != leaves[1].public_key()


async def test_the_plaintext_port_has_no_certificates(mesh: Running) -> None:
    port = mesh.plane.plaintext_port
    async with Stream(
        f"127.0.0.1:{port}", None, (), node_id("shop/reviews-1"), delta=False
    ) as stream:
        await stream.ask("default", "ROOTCA")
        await stream.ask(type_url=CLUSTER)
        answer = await stream.answer()
    assert answer.type_url == CLUSTER, "secrets would have come first"


@pytest.mark.parametrize(
    ("token", "node", "code"),
    [
        ("", node_id("shop/reviews-1"), grpc.StatusCode.UNAUTHENTICATED),
        ("0" * 64, node_id("shop/reviews-1"), grpc.StatusCode.UNAUTHENTICATED),
        (
            token_of("shop/reviews-1"),
            node_id("shop/ratings-1"),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
        (
            token_of("shop/reviews-1"),
            node_id("shop/reviews-1", "other"),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
    ],
    ids=["no token", "forged token", "another workload's node id", "another namespace"],
)
async def test_who_cannot_prove_its_identity_gets_a_status_and_no_bytes(
    mesh: Running,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    node: str,
    code: grpc.StatusCode,
) -> None:
    monkeypatch.setattr("dockermesh.controlplane.trust.admission.PATIENCE_S", 0.05)
    async with mesh.stream(token=token, node=node) as stream:
        assert (await stream.refusal("default"))[0] is code


async def test_a_stolen_token_is_refused_elsewhere(mesh: Running) -> None:
    await mesh.add(workload("shop/far-1", address="10.99.0.1"))
    async with mesh.stream("shop/far-1") as stream:
        assert (await stream.refusal("default"))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_certificate_is_replaced_in_time_and_no_other_resource_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dockermesh.ca.certificates.RENEW_AT", 0.05)
    lifetime = datetime.timedelta(seconds=60)
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, leaf_lifetime=lifetime) as running,
    ):
        await running.add(REVIEWS)
        async with running.stream("shop/reviews-1") as stream:
            [before] = certificates(
                (await stream.secrets("default", "ROOTCA"))["default"]
            )
            for _ in range(2):
                answer = secrets_in(await stream.answer())
                assert answer.keys() == {"default"}
                [after] = certificates(answer["default"])
                assert after.serial_number != before.serial_number
                assert before.not_valid_after_utc > datetime.datetime.now(
                    datetime.UTC
                ), "renewed before it expired"
                before = after
