"""A private key that is sealed for one proxy: opened by its token alone, and always the same."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dockermesh.ca import seal_password, sealed_key

PASSWORD = seal_password(b"a" * 64)


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, form: str) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, form),
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)],
    ids=["EC", "RSA"],
)
def test_the_token_of_the_proxy_opens_it_and_nothing_else(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, form: str
) -> None:
    sealed = sealed_key(pem(key, form), PASSWORD)
    opened = serialization.load_pem_private_key(sealed, PASSWORD.encode())
    assert pem(opened, "PKCS8") == pem(key, "PKCS8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="password"):
        serialization.load_pem_private_key(sealed, seal_password(b"b" * 64).encode())
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(sealed, None)


def test_the_same_key_and_token_give_the_same_bytes() -> None:
    """A restarted control plane, or another replica, sends nothing anew."""
    one, two = (pem(ec.generate_private_key(ec.SECP256R1()), "PKCS8") for _ in range(2))
    assert sealed_key(one, PASSWORD) == sealed_key(one, PASSWORD)
    assert sealed_key(one, PASSWORD) != sealed_key(one, seal_password(b"b" * 64))
    assert sealed_key(one, PASSWORD) != sealed_key(two, PASSWORD)
