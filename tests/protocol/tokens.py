"""JSON Web Tokens made by hand, also those that must not be accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An issuer with one RSA key."""

    def __init__(self, name: str, kid: str = "one") -> None:
        self.name = name
        self._kid = kid
        self._key = rsa.generate_private_key(65537, 2048)

    @property
    def jwks(self) -> str:
        """Its public key as a key set."""
        numbers = self._key.public_key().public_numbers()
        key = {
            "kty": "RSA",
            "kid": self._kid,
            "n": _encoded(numbers.n.to_bytes(256, "big")),
            "e": "AQAB",
        }
        return json.dumps({"keys": [key]})

    def token(
        self,
        *,
        alg: str = "RS256",
        kid: str = "",
        header: Mapping[str, Any] = MappingProxyType({}),
        **claims: Any,
    ) -> str:
        """A token; by default a good one that is valid for an hour. A claim of None is left out."""
        now = int(time.time())
        all_claims = {
            "iss": self.name,
            "sub": "ann",
            "iat": now,
            "exp": now + 3600,
        } | claims
        head = _encoded(
            json.dumps(
                {"alg": alg, "typ": "JWT", "kid": kid or self._kid, **header}
            ).encode()
        )
        body = _encoded(
            json.dumps({k: v for k, v in all_claims.items() if v is not None}).encode()
        )
        signed = f"{head}.{body}".encode()
        if alg == "none":
            return f"{head}.{body}."
        if alg == "HS256":
            public = self._key.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            return f"{head}.{body}.{_encoded(hmac.new(public, signed, hashlib.sha256).digest())}"
        return f"{head}.{body}.{_encoded(self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))}"


def bearer(token: str) -> tuple[str, str]:
    """The header that carries a token."""
    return "Authorization", f"Bearer {token}"
