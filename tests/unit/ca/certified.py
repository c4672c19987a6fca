"""Certificates and keys of a CA that somebody else made, as files of Istio's cacerts."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dockermesh.ca.certificates import SigningKey, pem_of

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Certified:
    """A certificate and its key, signed by another or by itself."""

    def __init__(
        self,
        name: str,
        by: Certified | None = None,
        *,
        ca: bool = True,
        days: int = 9,
        rsa_bits: int = 0,
    ) -> None:
        self.key: SigningKey = (
            rsa.generate_private_key(65537, rsa_bits)
            if rsa_bits
            else ec.generate_private_key(ec.SECP256R1())
        )
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer = by or self
        self.certificate = (
            x509.CertificateBuilder(
                signer.name,
                self.name,
                self.key.public_key(),
                x509.random_serial_number(),
            )
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(NOW + days * DAY)
            .add_extension(
                x509.BasicConstraints(ca=ca, path_length=None), critical=True
            )
            .sign(signer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return pem_of(self.certificate)


def write(
    folder: Path, signer: Certified, chain: list[Certified], roots: list[Certified]
) -> None:
    plain = serialization.NoEncryption()
    pem = signer.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        plain,
    )
    (folder / "ca-key.pem").write_bytes(pem)
    (folder / "ca-key.pem").chmod(0o600)
    (folder / "ca-cert.pem").write_bytes(signer.pem)
    (folder / "cert-chain.pem").write_bytes(signer.pem + b"".join(c.pem for c in chain))
    (folder / "root-cert.pem").write_bytes(b"".join(c.pem for c in roots))
