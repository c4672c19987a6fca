"""X.509 as the mesh uses it: roots, leaves, and the PEM they are written in. Pure but for the
roots' keys.

Invariants: no certificate outlives the one that signed it; every certificate begins a little before
now; a leaf names the key that signed it, since during a rotation two roots are trusted.

A leaf and its key follow from the signer's key, the holder and the time, and from nothing else. So
a control plane that was restarted, and every replica of it, gives a holder the very certificate
that it has, and nothing is sent again.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPublicKeyTypes,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from dockermesh.errors import DockermeshError

ROOT_LIFETIME = datetime.timedelta(days=3650)
LEAF_LIFETIME = datetime.timedelta(hours=24)
CLOCK_SKEW = datetime.timedelta(minutes=5)
"""Certificates begin this long before now: the clocks of two hosts are never the same."""
RENEW_AT = 0.5
"""At which part of its life a leaf is replaced. Terms begin at another time for each holder: not
all end at once.
"""
_EPOCH = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of the group of P-256 (FIPS 186-5): private keys are the numbers from 1 to below it."""

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
    """A signing certificate and its key. `chain`: PEM of what leads from it, itself first, to below
    the root.
    """

    key: SigningKey = field(repr=False)
    certificate: x509.Certificate
    chain: bytes = b""

    @property
    def id(self) -> str:
        """Tells signers apart."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def new_root(
    trust_domain: str,
    now: datetime.datetime,
    lifetime: datetime.timedelta = ROOT_LIFETIME,
) -> Signer:
    """A new self-signed root with an EC P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Roots have names of their own: a verifier that looks for a leaf's issuer by name must not find
    # the other root.
    names = [
        (NameOID.ORGANIZATION_NAME, trust_domain),
        (NameOID.COMMON_NAME, f"mesh root {secrets.token_hex(4)}"),
    ]
    # X.509 has 64 characters for either of them (RFC 5280, appendix A).
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
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )

    return Signer(key, certificate)


def sign_leaf(
    signer: Signer,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    lifetime: datetime.timedelta,
    now: datetime.datetime,
    holder: str,
) -> Leaf:
    """The leaf of `holder` in the term that `now` is in, with an EC P-256 key of its own.

    At least half of its life is left. Raises AuthorityError when the signing certificate is not
    valid now.
    """
    authority = signer.certificate
    if not authority.not_valid_before_utc <= now < authority.not_valid_after_utc:
        raise AuthorityError(
            f"the CA's certificate is valid from {authority.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {authority.not_valid_after_utc:%Y-%m-%d %H:%M} UTC only",
            fix=(
                "set the clock right; if it is, rotate the root (`dockermesh ca rotate`) or replace"
                " your CA's files"
            ),
        )

    # From the holder and the time alone, so that every replica comes to the same leaf.
    start, renew_at = _term(holder, lifetime, now)
    said = [
        str(part) for part in (holder, *(name.value for name in names), start, lifetime)
    ]
    # Derived, not drawn: a restarted control plane has the same leaf, and sends nothing.
    key, serial = _derived(signer, "\0".join(said).encode())
    end = min(start + lifetime, authority.not_valid_after_utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(max(start - CLOCK_SKEW, authority.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_issuer_key(authority), critical=False)
        # Critical, because the subject is empty (RFC 5280 section 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        # RSA's signatures (PKCS #1 v1.5) are deterministic as they are; ECDSA's have to be asked to
        # (RFC 6979).
        .sign(
            signer.key,
            hashes.SHA256(),
            ecdsa_deterministic=isinstance(signer.key, ec.EllipticCurvePrivateKey)
            or None,
        )
    )

    return Leaf(
        certificate=certificate.public_bytes(serialization.Encoding.PEM) + signer.chain,
        key=key_pem(key),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        renew_at=min(renew_at, end),
        signer=signer.id,
    )


def _term(
    holder: str, lifetime: datetime.timedelta, now: datetime.datetime
) -> tuple[datetime.datetime, datetime.datetime]:
    """When the present term of a holder began, and when the next one does."""
    length = lifetime * RENEW_AT
    fraction = int.from_bytes(hashlib.sha256(holder.encode()).digest()[:4]) / 2**32
    start = now - (now - _EPOCH - length * fraction) % length
    return start, start + length


def _derived(signer: Signer, purpose: bytes) -> tuple[ec.EllipticCurvePrivateKey, int]:
    """A private key and a serial number that follow from the signer's key and the purpose (HKDF,
    RFC 5869).
    """
    secret = signer.key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    drawn = HKDF(
        hashes.SHA256(), length=64, salt=None, info=b"dockermesh leaf\0" + purpose
    ).derive(secret)
    # 64 bits more than the order has: the numbers are as good as uniform (FIPS 186-5 appendix
    # A.2.1).
    scalar = int.from_bytes(drawn[:40]) % (_ORDER - 1) + 1
    # The serial: 19 octets of 20 that RFC 5280 allows, so it is positive, and odd, so never 0.
    return ec.derive_private_key(scalar, ec.SECP256R1()), int.from_bytes(
        drawn[40:59]
    ) | 1


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        # ValueError is for names that do not fit, TypeError for a kind of key that signs nothing.
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign others: CA:TRUE, and keyCertSign where usages are given."""
    try:
        if not certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        ).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(
            x509.KeyUsage
        ).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        # Without usages none is excluded (RFC 5280 section 4.2.1.3); CA:TRUE must be there.
        return missing.oid == x509.KeyUsage.oid


def pem_of(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def utf8_string(text: str) -> bytes:
    """The text in DER, for a name of a kind of our own."""
    content = text.encode()
    size = len(content)
    if size < 128:
        return bytes((12, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((12, 128 | len(length))) + length + content


def key_pem(key: SigningKey) -> bytes:
    """The private key in PEM, PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _issuer_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = authority.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
    except x509.ExtensionNotFound:
        # A CA that the user brings need not have it.
        key = cast(CertificateIssuerPublicKeyTypes, authority.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        # For key exchange by RSA alone: leaves have EC keys, and TLS 1.3 knows no such exchange.
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
