"""What the CA signs: for whom, for how long, under which root; and what becomes of it when its root does not hold."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dockermesh.ca import Authority, AuthorityError, Leaf, new_material
from dockermesh.model import Identity

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
REVIEWS = Identity("mesh.test", "default", "bookinfo-reviews")


def made(age: datetime.timedelta = datetime.timedelta(), lifetime: datetime.timedelta = 10 * DAY) -> Authority:
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
    assert [n.value for n in names.value] == ["spiffe://mesh.test/ns/default/sa/bookinfo-reviews"]
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
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_renewal_is_about_half_way_and_not_for_all_at_once() -> None:
    leaves = [made().issue_workload(REVIEWS) for _ in range(20)]
    parts = {(leaf.renew_at - NOW) / DAY for leaf in leaves}
    assert all(0.46 < part < 0.54 for part in parts)
    assert max(parts) - min(parts) > 0.005


def test_no_leaf_outlives_its_root() -> None:
    leaf = made(age=9 * DAY + DAY / 2).issue_workload(REVIEWS)
    assert leaf.not_after <= NOW + DAY / 2
    assert leaf.renew_at < NOW + DAY / 2


@pytest.mark.parametrize(("age", "lifetime"), [(2 * DAY, DAY), (-DAY, 10 * DAY)], ids=["expired", "not yet valid"])
def test_a_root_that_is_not_valid_now_signs_nothing(age: datetime.timedelta, lifetime: datetime.timedelta) -> None:
    with pytest.raises(AuthorityError, match="valid from"):
        made(age, lifetime).issue_workload(REVIEWS)


def test_a_leaf_is_replaced_when_its_time_has_come_when_the_clock_went_back_and_for_a_new_signer() -> None:
    authority = made(DAY)
    leaf = authority.issue_workload(REVIEWS)
    assert authority.is_current(leaf, NOW)
    assert not authority.is_current(leaf, leaf.renew_at)
    assert not authority.is_current(leaf, NOW - datetime.timedelta(hours=1)), "not valid yet by the present clock"
    authority.install(made().material)
    assert not authority.is_current(leaf, NOW)


def test_a_key_is_never_shown() -> None:
    authority = made()
    shown = f"{authority.issue_workload(REVIEWS)!r} {authority.material!r}"
    assert "PRIVATE" not in shown
    assert "key=" not in shown
