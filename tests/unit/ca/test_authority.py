"""The CA makes one root, keeps it private, and never replaces it silently."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from dockermesh.ca import Authority, AuthorityError


def test_the_root_survives_a_restart(tmp_path: Path) -> None:
    first = Authority.open(tmp_path, "mesh.test")
    assert Authority.open(tmp_path, "mesh.test").root_pem == first.root_pem


def test_the_key_is_private(tmp_path: Path) -> None:
    Authority.open(tmp_path, "mesh.test")
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_closed_again(tmp_path: Path) -> None:
    Authority.open(tmp_path, "mesh.test")
    (tmp_path / "ca-key.pem").chmod(0o644)
    Authority.open(tmp_path, "mesh.test")
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("victim", ["ca-key.pem", "ca-cert.pem"])
def test_a_damaged_root_is_refused_and_kept(tmp_path: Path, victim: str) -> None:
    Authority.open(tmp_path, "mesh.test")
    (tmp_path / victim).write_bytes(b"-----BEGIN")
    with pytest.raises(AuthorityError, match="cannot be read"):
        Authority.open(tmp_path, "mesh.test")
    assert (tmp_path / victim).read_bytes() == b"-----BEGIN"


def test_a_missing_half_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path, "mesh.test")
    (tmp_path / "ca-key.pem").unlink()
    with pytest.raises(AuthorityError):
        Authority.open(tmp_path, "mesh.test")


def test_a_foreign_key_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path / "a", "mesh.test")
    Authority.open(tmp_path / "b", "mesh.test")
    (tmp_path / "a" / "ca-key.pem").write_bytes((tmp_path / "b" / "ca-key.pem").read_bytes())
    with pytest.raises(AuthorityError, match="does not belong"):
        Authority.open(tmp_path / "a", "mesh.test")


def test_a_server_certificate_names_its_hosts_and_is_back_dated(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, "mesh.test")
    leaf = authority.issue_server(["control-plane.dockermesh"])
    certificate = x509.load_pem_x509_certificate(leaf.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["control-plane.dockermesh"]
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc <= now - datetime.timedelta(minutes=2)
    assert now < leaf.renew_at < certificate.not_valid_after_utc
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.root_pem))
