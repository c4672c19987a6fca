"""A private key, sealed for the one proxy that is given it.

Envoy's config dump, out of which a proxy keeps what it accepted last, hides private keys. So a key
is sent a second time, encrypted, behind the certificates, where Envoy looks for certificates alone
and the dump hides nothing. The password follows from the token that the proxy showed: it travels
nowhere, and the next run of the pod has another.

Invariant: the same key and password give the same bytes, so that a restarted control plane, or
another replica, sends nothing anew. Form: PKCS #8 with PBES2 (RFC 5958, RFC 8018), which Envoy
opens by the `password` of a TLS certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import textwrap
from base64 import b64encode

from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from dockermesh.model.contract import SEAL_PURPOSE

_PBES2, _PBKDF2 = "1.2.840.113549.1.5.13", "1.2.840.113549.1.5.12"
_HMAC_SHA256, _AES256_CBC = "1.2.840.113549.2.9", "2.16.840.1.101.3.4.1.42"
_ROUNDS = 1
"""A password of 256 random bits needs no slow derivation."""
_INTEGER, _OCTETS, _NULL, _OID, _SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30


def seal_password(token: bytes) -> str:
    """What the keys are sealed with that are sent to the proxy with this token."""
    return hmac.new(token, SEAL_PURPOSE.encode(), hashlib.sha256).hexdigest()


def sealed_key(key: bytes, password: str) -> bytes:
    """A private key in PEM, encrypted, in PEM."""
    plain = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret = password.encode()
    # Out of the content: random, unless the same is encrypted again.
    digest = hmac.digest(secret, plain, hashlib.sha256)
    salt, vector = digest[:16], digest[16:]
    cipher_key = hashlib.pbkdf2_hmac("sha256", secret, salt, _ROUNDS, 32)
    return _pem(_container(salt, vector, _encrypted(plain, cipher_key, vector)))


def _encrypted(plain: bytes, key: bytes, vector: bytes) -> bytes:
    padder = padding.PKCS7(128).padder()
    padded = padder.update(plain) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def _container(salt: bytes, vector: bytes, content: bytes) -> bytes:
    """EncryptedPrivateKeyInfo."""
    derivation = _sequence(
        _oid(_PBKDF2),
        _sequence(
            _der(_OCTETS, salt),
            _der(_INTEGER, bytes([_ROUNDS])),
            _sequence(_oid(_HMAC_SHA256), _der(_NULL)),
        ),
    )
    encryption = _sequence(_oid(_AES256_CBC), _der(_OCTETS, vector))
    scheme = _sequence(_oid(_PBES2), _sequence(derivation, encryption))
    return _sequence(scheme, _der(_OCTETS, content))


def _sequence(*parts: bytes) -> bytes:
    return _der(_SEQUENCE, *parts)


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    return _der(_OID, bytes([first * 40 + second]), *map(_base128, rest))


def _base128(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _pem(content: bytes) -> bytes:
    label = "ENCRYPTED PRIVATE KEY"
    lines = textwrap.wrap(b64encode(content).decode(), 64)
    text = [f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]
    return "\n".join(text).encode()
