"""A CA that the user brings: the files of Istio's `cacerts`, checked before anything is signed with
them.

Source of the file names: Istio, "Plug in CA Certificates". `ca-cert.pem` and `ca-key.pem` sign;
`cert-chain.pem` leads from `ca-cert.pem` to the root; `root-cert.pem` holds what is trusted,
several roots during a rotation. Invariant: files that do not belong together, may not sign, or have
expired are refused as a whole.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dockermesh.ca.certificates import (
    AuthorityError,
    Signer,
    is_authority,
    pem_of,
    signed_by,
)
from dockermesh.ca.material import Material, Phase
from dockermesh.ca.sealing import private_bytes

CERTIFICATE, KEY, CHAIN, ROOT = (
    "ca-cert.pem",
    "ca-key.pem",
    "cert-chain.pem",
    "root-cert.pem",
)
_SMALLEST_RSA = 2048


def read_plugged(folder: Path, now: datetime.datetime) -> Material:
    """The material in `folder`.

    Raises AuthorityError, which names the file, when it cannot be used.
    """
    [certificate, *_] = _certificates(folder / CERTIFICATE)
    key = _key(folder / KEY)
    roots = tuple(_certificates(folder / ROOT))
    # Istio's cacerts has it; a CA that is a root itself needs none.
    chain = _certificates(folder / CHAIN) if (folder / CHAIN).exists() else []
    if key.public_key() != certificate.public_key():
        raise _refused(folder / KEY, f"the key does not belong to {CERTIFICATE}")

    for place, items in ((CERTIFICATE, [certificate]), (CHAIN, chain), (ROOT, roots)):
        for item in items:
            # What was trusted once and has expired may stay in the bundle, as long as the signer
            # does not hang on it.
            _check(folder / place, item, now, may_expire=place == ROOT)

    # Envoy refuses a bundle for the sake of one that has expired.
    roots = tuple(root for root in roots if _is_valid(root, now))
    # Envoy builds no chain from what it is not given.
    path = _path(certificate, chain, roots)
    if path is None:
        raise _refused(
            folder / CHAIN,
            f"no chain leads from {CERTIFICATE} to a valid certificate in {ROOT}",
        )

    # Roots are not sent along: nobody comes to trust one by being shown it.
    signer = Signer(
        key, certificate, b"".join(pem_of(c) for c in path if c not in roots)
    )
    return Material(
        mesh="plugged",
        generation=0,
        phase=Phase.STABLE,
        since=now,
        signer=signer,
        roots=roots,
        is_own=False,
    )


def fingerprint(folder: Path) -> tuple[bytes, ...]:
    """Changes when the certificates in the folder do."""
    # Not the key: another key means another certificate.
    files = (folder / name for name in (CERTIFICATE, CHAIN, ROOT))
    return tuple(file.read_bytes() if file.exists() else b"" for file in files)


def _path(
    certificate: x509.Certificate,
    chain: list[x509.Certificate],
    roots: tuple[x509.Certificate, ...],
) -> list[x509.Certificate] | None:
    """The certificates from the signing one up to below a root."""
    path = [certificate]
    # A chain file often holds the signing certificate, too.
    left = [item for item in chain if item != certificate]

    while True:
        last = path[-1]
        if last in roots or any(signed_by(last, root) for root in roots):
            return path
        issuer = next((item for item in left if signed_by(last, item)), None)
        if issuer is None:
            return None
        left.remove(issuer)
        path.append(issuer)


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "not a certificate in PEM"
        )
        raise _refused(file, f"cannot be read: {reason}") from error


def _key(file: Path) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    content = private_bytes(file, "the CA's key", is_ours=False)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise _refused(file, "not a private key in PEM without a passphrase") from error
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _SMALLEST_RSA:
        return key
    raise _refused(
        file, f"only EC keys and RSA keys of {_SMALLEST_RSA} bits or more can be used"
    )


def _is_valid(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _check(
    file: Path,
    certificate: x509.Certificate,
    now: datetime.datetime,
    *,
    may_expire: bool,
) -> None:
    name = (
        certificate.subject.rfc4514_string()
        or certificate.fingerprint(hashes.SHA256()).hex()[:16]
    )
    if not is_authority(certificate):
        raise _refused(file, f"{name!a} is no CA: it may not sign certificates")
    if not may_expire and not _is_valid(certificate, now):
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        raise _refused(
            file,
            f"{name!a} is valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC only",
        )


def _refused(file: Path, reason: str) -> AuthorityError:
    return AuthorityError(
        f"the CA that you bring cannot be used: {reason}",
        where=str(file),
        fix=(
            f"the folder needs {CERTIFICATE}, {KEY}, {ROOT} and, with intermediates, {CHAIN}, as"
            " Istio's cacerts"
        ),
    )
