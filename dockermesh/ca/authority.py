"""The mesh's certificate authority: one root, and the leaves signed by it.

Invariants: the root's key is in one file with mode 0600 and nowhere else; a root that exists but cannot be read is
an error and is never replaced by a new one, because every proxy in the mesh trusts the old one alone.
"""

from __future__ import annotations

import datetime
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dockermesh.errors import DockermeshError
from dockermesh.model import Identity

ROOT_LIFETIME = datetime.timedelta(days=3650)
LEAF_LIFETIME = datetime.timedelta(hours=24)
CLOCK_SKEW = datetime.timedelta(minutes=5)
"""Certificates begin this long before now: the clocks of two hosts are never the same."""
_JITTER = 0.025
"""Half-life is meant give or take this part of the lifetime: what was issued together is not renewed together."""


class AuthorityError(DockermeshError):
    """The CA's key or certificate cannot be used."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate with its chain and its key, in PEM. From `renew_at` on it should be replaced."""

    certificate: bytes
    key: bytes = field(repr=False)
    not_before: datetime.datetime
    not_after: datetime.datetime
    renew_at: datetime.datetime

    def is_fresh(self, now: datetime.datetime) -> bool:
        """Whether it can go on being used; no when the clock went back to before it, either."""
        return self.not_before <= now < self.renew_at


class Authority:
    """Signs leaves under one root."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @property
    def root_pem(self) -> bytes:
        """The root certificate: what proxies trust. Not a secret."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def open(cls, folder: Path, trust_domain: str) -> Authority:
        """The authority kept in `folder`, made there at the first start.

        Raises AuthorityError when the files are incomplete, unreadable, or do not belong together.
        """
        key_file, certificate_file = folder / "ca-key.pem", folder / "ca-cert.pem"
        if not key_file.exists() and not certificate_file.exists():
            return cls._create(folder, key_file, certificate_file, trust_domain)
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        except (OSError, ValueError) as error:
            raise AuthorityError(
                f"the CA cannot be read: {error}",
                where=str(folder),
                fix="restore ca-key.pem and ca-cert.pem from a backup; delete both only to start a new mesh",
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(
                "the CA's key does not belong to its certificate",
                where=str(folder),
                fix="restore ca-key.pem and ca-cert.pem from the same backup",
            )
        if key_file.stat().st_mode & 0o077:
            key_file.chmod(0o600)
        return cls(key, certificate)

    @classmethod
    def _create(cls, folder: Path, key_file: Path, certificate_file: Path, trust_domain: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        authority = cls(key, certificate)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_private(key_file, _key_pem(key))
            certificate_file.write_bytes(authority.root_pem)
        except OSError as error:
            raise AuthorityError(
                f"the new CA cannot be saved: {error}",
                where=str(folder),
                fix="make the folder writable, or name another one with --state-dir",
            ) from error
        return authority

    def issue_server(self, dns_names: list[str], lifetime: datetime.timedelta = LEAF_LIFETIME) -> Leaf:
        """A server certificate for these DNS names."""
        names = [x509.DNSName(name) for name in dns_names]
        return self._issue(names, [ExtendedKeyUsageOID.SERVER_AUTH], lifetime)

    def issue_workload(self, identity: Identity, lifetime: datetime.timedelta = LEAF_LIFETIME) -> Leaf:
        """The certificate of a workload: an X.509-SVID, good for both sides of a connection."""
        names = [x509.UniformResourceIdentifier(str(identity))]
        return self._issue(names, [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], lifetime)

    def _issue(
        self, names: Sequence[x509.GeneralName], usages: list[x509.ObjectIdentifier], lifetime: datetime.timedelta
    ) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        end = min(now + lifetime, self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            # Critical, because the subject is empty (RFC 5280 section 4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            key=_key_pem(key),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            renew_at=now + (end - now) * (0.5 + _JITTER * (2 * random.random() - 1)),
        )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that was never readable by anybody else, and that exists in full or not at all."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
