"""Who is let onto the xDS port: every proof that a proxy owes, missing or wrong on its own."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import grpc
import pytest
from patience import SLACK

from dockermesh.ca import seal_password
from dockermesh.controlplane.trust import admission
from dockermesh.controlplane.trust.admission import (
    Admission,
    node_workload,
    peer_address,
)
from dockermesh.model import Workload
from dockermesh.xds import NodeInfo, Refused

TOKEN = "a" * 64
REVIEWS = Workload(
    id="pod1",
    name="shop/reviews-1",
    address="172.28.0.9",
    token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
)
NODE = NodeInfo(
    id="sidecar~172.28.0.9~shop/reviews-1.default~default.svc.cluster.local"
)
PEER = "ipv4:172.28.0.9:51234"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setattr(admission, "PATIENCE_S", 0.01)
    made = Admission()
    made.update({REVIEWS.name: REVIEWS})
    return made


async def test_a_proxy_with_its_own_token_is_its_workload(known: Admission) -> None:
    assert await known.authorize(BEARER, NODE, PEER) == "shop/reviews-1"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {'b' * 64}"},
        # The digest is public: it stands in the pod's log.
        {"authorization": f"Bearer {REVIEWS.token_sha256}"},
    ],
)
async def test_without_the_token_nobody_gets_in(
    known: Admission, metadata: dict[str, str]
) -> None:
    with pytest.raises(Refused) as refused:
        await known.authorize(metadata, NODE, PEER)
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "node",
    [
        "sidecar~172.28.0.9~shop/ratings-1.default~default.svc.cluster.local",
        "sidecar~172.28.0.9~shop/reviews-1.other~other.svc.cluster.local",
        "shop/reviews-1",
        "",
    ],
)
async def test_a_token_speaks_for_its_own_workload_only(
    known: Admission, node: str
) -> None:
    with pytest.raises(Refused) as refused:
        await known.authorize(BEARER, NodeInfo(id=node), PEER)
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stolen_token_is_worthless_elsewhere(known: Admission) -> None:
    with pytest.raises(Refused) as refused:
        await known.authorize(BEARER, NODE, "ipv4:172.28.0.10:51234")
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED


async def test_the_token_of_an_earlier_run_is_worthless(known: Admission) -> None:
    known.update({REVIEWS.name: replace(REVIEWS, token_sha256="0" * 64)})
    with pytest.raises(Refused):
        await known.authorize(BEARER, NODE, PEER)


async def test_a_proxy_may_be_faster_than_its_record() -> None:
    late = Admission()
    waiting = asyncio.create_task(late.authorize(BEARER, NODE, PEER))
    await asyncio.sleep(0)
    late.update({REVIEWS.name: REVIEWS})
    assert await asyncio.wait_for(waiting, 1 * SLACK) == "shop/reviews-1"


@pytest.mark.parametrize("guess", ["b" * 64, "\ud800", "\udcff"])
async def test_who_guesses_is_stopped_and_a_proxy_of_the_same_address_is_not(
    known: Admission, guess: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PATIENCE_S", 0.0)
    metadata = {"authorization": f"Bearer {guess}"}
    codes = set()
    for _ in range(60):
        with pytest.raises(Refused) as refused:
            await known.authorize(metadata, NODE, PEER)
        codes.add(refused.value.code)
    assert codes == {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    # An app has its own proxy's address.
    assert await known.authorize(BEARER, NODE, PEER) == "shop/reviews-1"


async def test_guesses_at_the_same_time_are_counted_like_others(
    known: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PATIENCE_S", 0.2)
    guesses = [
        known.authorize({"authorization": f"Bearer {n}"}, NODE, PEER)
        for n in range(100)
    ]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    codes = [a.code for a in answers if isinstance(a, Refused)]
    assert codes.count(grpc.StatusCode.UNAUTHENTICATED) == 30
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 70


async def test_who_was_only_early_has_made_no_guess() -> None:
    early = Admission()
    early.update({})
    for _ in range(60):
        waiting = asyncio.create_task(early.authorize(BEARER, NODE, PEER))
        await asyncio.sleep(0)
        early.update({REVIEWS.name: REVIEWS})
        assert await asyncio.wait_for(waiting, 1 * SLACK) == "shop/reviews-1"
        early.update({})


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:1234", "10.0.0.1"),
        ("ipv6:%5Bfd00::1%5D:1234", "fd00::1"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1234", "10.0.0.1"),
        ("unix:/run/x", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert peer_address(peer) == address


def test_the_workload_of_a_node_id() -> None:
    assert node_workload(NODE.id, "default") == "shop/reviews-1"


async def test_a_proxys_keys_are_sealed_with_the_token_that_it_was_let_in_with(
    known: Admission,
) -> None:
    assert known.seal_of(REVIEWS.name) == "", "nobody was let in"
    await known.authorize(BEARER, NODE, PEER)
    assert known.seal_of(REVIEWS.name) == seal_password(TOKEN.encode())
    other = replace(REVIEWS, token_sha256=hashlib.sha256(b"b" * 64).hexdigest())
    known.update({REVIEWS.name: other})
    assert known.seal_of(REVIEWS.name) == "", "the pod's next run has not been let in"
    known.update({})
    assert known.seal_of(REVIEWS.name) == ""
