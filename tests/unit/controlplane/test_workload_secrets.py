"""A proxy's certificate: made once, shared with nobody, kept when it cannot be renewed, cheap for
everybody else.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Collection
from dataclasses import replace

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import any_pb2

from dockermesh.ca import Authority, Step, advance, new_material, sealed_key
from dockermesh.controlplane.trust import workload_secrets
from dockermesh.controlplane.trust.workload_secrets import Recipient, WorkloadSecrets
from dockermesh.model import Identity
from dockermesh.xds import EMPTY, SECRET, ResourceSet, Snapshot, make_resource

DAY = datetime.timedelta(days=1)
A, B = Identity("mesh.test", "default", "a"), Identity("mesh.test", "default", "b")


class Clock:
    """The time of day, which can be set."""

    def __init__(self) -> None:
        self.shift = datetime.timedelta()

    def __call__(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.shift


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(workload_secrets, "_now", found)
    return found


def made(
    age: datetime.timedelta = datetime.timedelta(),
    lifetime: datetime.timedelta = 10 * DAY,
) -> Authority:
    return Authority(
        new_material("mesh.test", datetime.datetime.now(datetime.UTC) - age, lifetime)
    )


def test_the_same_snapshot_comes_out_while_the_same_goes_in() -> None:
    secrets, under = WorkloadSecrets(made(), DAY), Snapshot()
    first = secrets.layered("a-1", Recipient(A), under)
    assert secrets.layered("a-1", Recipient(A), under) is first
    other = Snapshot(clusters=ResourceSet())
    second = secrets.layered("a-1", Recipient(A), other)
    assert second == replace(other, secrets=second.secrets), "nothing else is lost"
    assert second.secrets is first.secrets, "nothing is sent again"
    assert secrets.issued == 1


def test_what_the_translator_gave_stays_and_no_proxy_sees_anothers_certificate() -> (
    None
):
    secrets = WorkloadSecrets(made(), DAY)
    file = make_resource(SECRET, "file-cert:x~y", b"")
    under = Snapshot(secrets=ResourceSet([file], base=EMPTY))
    one, two = (
        secrets.layered("a-1", Recipient(A), under),
        secrets.layered("a-2", Recipient(A), under),
    )
    assert set(one.secrets) == {"default", "ROOTCA", "file-cert:x~y"}
    assert one.secrets.get("default") is not two.secrets.get("default")
    assert one.secrets.get("ROOTCA") is two.secrets.get("ROOTCA"), "shared"


def test_another_identity_is_another_certificate() -> None:
    secrets, under = WorkloadSecrets(made(), DAY), Snapshot()
    first = secrets.layered("a-1", Recipient(A), under)
    assert secrets.layered("a-1", Recipient(B), under).secrets.get(
        "default"
    ) is not first.secrets.get("default")


def test_a_new_pod_has_a_new_key_and_a_restarted_control_plane_gives_the_same() -> None:
    authority = made()

    def version(secrets: WorkloadSecrets, pod: str) -> str:
        found = secrets.layered(
            "a-1", Recipient(A, holder=pod), Snapshot()
        ).secrets.get("default")
        assert found is not None
        return found.version

    before, after = WorkloadSecrets(authority, DAY), WorkloadSecrets(authority, DAY)
    assert version(after, "pod") == version(before, "pod")
    assert version(after, "new pod") != version(before, "pod")


def test_a_certificate_that_cannot_be_renewed_is_kept(clock: Clock) -> None:
    authority, under = made(), Snapshot()
    secrets = WorkloadSecrets(authority, DAY)
    first = secrets.layered("a-1", Recipient(A), under)
    authority.install(made(9 * DAY, DAY).material)
    clock.shift = 0.6 * DAY
    assert secrets.layered("a-1", Recipient(A), under).secrets.get(
        "default"
    ) is first.secrets.get("default")
    assert "default" not in secrets.layered("a-2", Recipient(A), under).secrets, (
        "there is none to keep"
    )
    assert secrets.failures == 2
    assert "valid from" in secrets.problem


async def renewed(secrets: WorkloadSecrets, until: int) -> set[str]:
    seen: set[str] = set()
    done = asyncio.Event()

    def publish(keys: Collection[str]) -> None:
        seen.update(keys)
        if secrets.issued >= until:
            done.set()

    running = asyncio.create_task(secrets.run(lambda: ["a-1", "a-2"], publish))
    async with asyncio.timeout(60):
        await done.wait()
    running.cancel()
    return seen


@pytest.mark.parametrize(
    "shift",
    [datetime.timedelta(hours=13), datetime.timedelta(hours=-13)],
    ids=["on", "back"],
)
async def test_a_clock_that_was_set_is_noticed_and_certificates_are_made_anew(
    clock: Clock, shift: datetime.timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload_secrets, "_LONGEST_SLEEP_S", 0.05)
    secrets = WorkloadSecrets(made(DAY), DAY)
    secrets.layered("a-1", Recipient(A), Snapshot())
    secrets.layered("away-1", Recipient(A), Snapshot())
    clock.shift = shift
    assert await renewed(secrets, 3) == {"a-1"}, (
        "who is away is renewed when it comes back"
    )
    assert secrets.clock_jumps == 1


async def test_a_new_root_is_told_to_all_and_a_new_signer_renews_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = made()
    secrets = WorkloadSecrets(authority, DAY)
    for name in ("a-1", "a-2"):
        secrets.layered(name, Recipient(A), Snapshot())
    now = datetime.datetime.now(datetime.UTC)
    prepared = advance(authority.material, Step.PREPARE, "mesh.test", now)
    authority.install(prepared)
    authority.install(advance(prepared, Step.SWITCH, "mesh.test", now))
    assert await renewed(secrets, 4) == {"a-1", "a-2"}
    signer = authority.material.signer.id
    assert {leaf.signer for leaf in secrets.leaves().values()} == {signer}


def test_a_key_comes_sealed_too_for_who_may_keep_it() -> None:
    authority = made()
    secrets, under = WorkloadSecrets(authority, DAY), Snapshot()

    def own(seal: str) -> secret_pb2.Secret:
        found = secrets.layered("a-1", Recipient(A, seal=seal), under).secrets.get(
            "default"
        )
        assert found is not None
        packed = any_pb2.Any.FromString(found.any_bytes)
        return secret_pb2.Secret.FromString(packed.value)

    plain, sealed = own("").tls_certificate, own("s" * 64).tls_certificate
    key = sealed.private_key.inline_bytes
    assert b"ENCRYPTED" not in plain.certificate_chain.inline_bytes
    assert sealed.certificate_chain.inline_bytes.endswith(sealed_key(key, "s" * 64))
    again = secrets.layered("a-1", Recipient(A, seal="s" * 64), under)
    assert again is secrets.layered("a-1", Recipient(A, seal="s" * 64), under), (
        "nothing is sent"
    )

    replica = WorkloadSecrets(authority, DAY)
    other = replica.layered("a-1", Recipient(A, seal="s" * 64), under).secrets.get(
        "default"
    )
    assert other is not None
    assert other.version == again.secrets.get("default").version  # type: ignore[union-attr]
