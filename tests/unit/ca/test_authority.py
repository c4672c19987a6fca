"""What the CA signs: for whom, for how long, under which root; and what becomes of it when its root
does not hold.
"""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dockermesh.ca import Authority, AuthorityError, Leaf, new_material
from dockermesh.ca.certificates import CLOCK_SKEW
from dockermesh.ca.material import from_json, to_json
from dockermesh.model import Identity

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
REVIEWS = Identity("mesh.test", "default", "bookinfo-reviews")


def made(
    age: datetime.timedelta = datetime.timedelta(),
    lifetime: datetime.timedelta = 10 * DAY,
) -> Authority:
    return Authority(new_material("mesh.test", NOW - age, lifetime))


def certificate(leaf: Leaf) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.certificate)


def test_a_server_certificate_names_its_hosts_and_is_back_dated() -> None:
    authority = made(DAY)
    leaf = authority.issue_server(["control-plane.dockermesh"])
    found = certificate(leaf)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["control-plane.dockermesh"]
    now = datetime.datetime.now(datetime.UTC)
    assert found.not_valid_before_utc <= now - datetime.timedelta(minutes=2)
    assert now < leaf.renew_at < found.not_valid_after_utc
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.roots_pem))


def test_a_workload_certificate_has_its_identity_and_nothing_else() -> None:
    found = certificate(made().issue_workload(REVIEWS))
    extensions = {type(e.value): e for e in found.extensions}
    names = extensions[x509.SubjectAlternativeName]
    assert [n.value for n in names.value] == [
        "spiffe://mesh.test/ns/default/sa/bookinfo-reviews"
    ]
    assert names.critical, "the subject is empty"
    assert not list(found.subject)
    assert not extensions[x509.BasicConstraints].value.ca
    usages = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert set(extensions[x509.ExtendedKeyUsage].value) == usages
    assert found.not_valid_after_utc - NOW <= DAY + datetime.timedelta(minutes=1)


def test_leaves_of_two_roots_are_told_apart_by_their_issuers_key() -> None:
    one, two = made(), made()
    leaf = certificate(one.issue_workload(REVIEWS))
    root, other = (x509.load_pem_x509_certificate(a.roots_pem) for a in (one, two))
    assert root.subject != other.subject
    issuer = leaf.extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    ).value.key_identifier
    assert (
        issuer
        == root.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value.digest
    )


def test_at_least_half_of_its_life_is_left_and_not_all_are_renewed_at_once() -> None:
    authority = made()
    leaves = [
        authority.issue_workload(REVIEWS, holder=str(number), now=NOW)
        for number in range(40)
    ]
    assert all(leaf.not_after - NOW >= DAY / 2 for leaf in leaves)
    moments = sorted((leaf.renew_at - NOW) / DAY for leaf in leaves)
    assert 0 < moments[0] < 0.2
    assert 0.3 < moments[-1] <= 0.5


def test_another_control_plane_with_the_same_ca_issues_the_same_leaf() -> None:
    authority = made()
    again = Authority(from_json(to_json(authority.material)))
    leaf = authority.issue_workload(REVIEWS, holder="a-1", now=NOW)
    assert again.issue_workload(REVIEWS, holder="a-1", now=NOW) == leaf
    later = again.issue_workload(REVIEWS, holder="a-1", now=leaf.renew_at)
    assert later.key != leaf.key
    assert later.not_before == (leaf.renew_at - CLOCK_SKEW).replace(microsecond=0)


def test_every_holder_identity_and_ca_has_a_key_of_its_own() -> None:
    authority = made()
    leaves = [
        authority.issue_workload(REVIEWS, holder="a-1", now=NOW),
        authority.issue_workload(REVIEWS, holder="a-2", now=NOW),
        authority.issue_workload(
            Identity("mesh.test", "default", "other"), holder="a-1", now=NOW
        ),
        made().issue_workload(REVIEWS, holder="a-1", now=NOW),
    ]
    assert len({leaf.key for leaf in leaves}) == len(leaves)
    assert len({certificate(leaf).serial_number for leaf in leaves}) == len(leaves)


def test_no_leaf_outlives_its_root() -> None:
    leaf = made(age=9 * DAY + DAY / 2).issue_workload(REVIEWS)
    assert leaf.not_after <= NOW + DAY / 2
    assert leaf.renew_at <= NOW + DAY / 2


@pytest.mark.parametrize(
    ("age", "lifetime"),
    [(2 * DAY, DAY), (-DAY, 10 * DAY)],
    ids=["expired", "not yet valid"],
)
def test_a_root_that_is_not_valid_now_signs_nothing(
    age: datetime.timedelta, lifetime: datetime.timedelta
) -> None:
    with pytest.raises(AuthorityError, match="valid from"):
        made(age, lifetime).issue_workload(REVIEWS)


def test_a_leaf_is_replaced_when_its_time_has_come_when_the_clock_went_back_and_for_a_new_signer() -> (
    None
):
    authority = made(DAY)
    leaf = authority.issue_workload(REVIEWS)
    assert authority.is_current(leaf, NOW)
    assert not authority.is_current(leaf, leaf.renew_at)
    assert not authority.is_current(
        leaf, leaf.not_before - datetime.timedelta(hours=1)
    ), "not valid yet"
    authority.install(made().material)
    assert not authority.is_current(leaf, NOW)


def test_a_key_is_never_shown() -> None:
    authority = made()
    shown = f"{authority.issue_workload(REVIEWS)!r} {authority.material!r}"
    assert "PRIVATE" not in shown
    assert "key=" not in shown
