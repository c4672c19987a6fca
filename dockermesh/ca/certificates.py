"""X.509 as the mesh uses it: roots, leaves, and the PEM they are written in. Pure but for the clock and the keys.

Invariants: no certificate outlives the one that signed it; every certificate begins a little before now; a leaf names
the key that signed it, since during a rotation two roots are trusted.
"""

from __future__ import annotations

import datetime
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from dockermesh.errors import DockermeshError

ROOT_LIFETIME = datetime.timedelta(days=3650)
LEAF_LIFETIME = datetime.timedelta(hours=24)
CLOCK_SKEW = datetime.timedelta(minutes=5)
"""Certificates begin this long before now: the clocks of two hosts are never the same."""
RENEW_AT, _JITTER = 0.5, 0.025
"""At which part of its life a leaf is replaced, give or take: what was issued together is not renewed together."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class AuthorityError(DockermeshError):
    """The CA's key or certificate cannot be used."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate with its chain and its key, in PEM. From `renew_at` on it should be replaced.

    `signer` identifies the certificate that signed it.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    not_before: datetime.datetime
    not_after: datetime.datetime
    renew_at: datetime.datetime
    signer: str = ""

    def is_fresh(self, now: datetime.datetime) -> bool:
        """Whether it can go on being used; no when the clock went back to before it, either."""
        return self.not_before <= now < self.renew_at


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing certificate and its key. `chain`: PEM of what leads from it, itself first, to below the root."""

    key: SigningKey = field(repr=False)
    certificate: x509.Certificate
    chain: bytes = b""

    @property
    def id(self) -> str:
        """Tells signers apart."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def new_root(trust_domain: str, now: datetime.datetime, lifetime: datetime.timedelta = ROOT_LIFETIME) -> Signer:
    """A new self-signed root with an EC P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Roots have names of their own: a verifier that looks for a leaf's issuer by name must not find the other root.
    names = [(NameOID.ORGANIZATION_NAME, trust_domain), (NameOID.COMMON_NAME, f"mesh root {secrets.token_hex(4)}")]
    name = x509.Name([x509.NameAttribute(oid, text[:64]) for oid, text in names])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Signer(key, certificate)


def sign_leaf(
    signer: Signer,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    lifetime: datetime.timedelta,
    now: datetime.datetime,
) -> Leaf:
    """A leaf with a new EC P-256 key.

    Raises AuthorityError when the signing certificate is not valid now.
    """
    authority = signer.certificate
    if not authority.not_valid_before_utc <= now < authority.not_valid_after_utc:
        raise AuthorityError(
            f"the CA's certificate is valid from {authority.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {authority.not_valid_after_utc:%Y-%m-%d %H:%M} UTC only",
            fix="set the clock right; if it is, rotate the root (`dockermesh ca rotate`) or replace your CA's files",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + lifetime, authority.not_valid_after_utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, authority.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_issuer_key(authority), critical=False)
        # Critical, because the subject is empty (RFC 5280 section 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(signer.key, hashes.SHA256())
    )
    return Leaf(
        certificate=certificate.public_bytes(serialization.Encoding.PEM) + signer.chain,
        key=key_pem(key),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        renew_at=now + (end - now) * (RENEW_AT + _JITTER * (2 * random.random() - 1)),
        signer=signer.id,
    )


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign others: CA:TRUE, and keyCertSign where usages are given."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid


def pem_of(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: SigningKey) -> bytes:
    """The private key in PEM, PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _issuer_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


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
