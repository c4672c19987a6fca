"""Whether a Kubernetes Secret holds a certificate that can be served now."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from dockermesh.analysis.objects import dig

_PAIRS = (("tls.crt", "tls.key"), ("cert", "key"))
"""The keys of certificate and private key, in the order in which Istio looks
(`pilot/pkg/credentials/kube`).
"""


def holds_certificate(secret: Mapping[str, Any]) -> bool:
    """Whether certificate and key are there, and every certificate of the chain can be read and has
    not expired.
    """
    for certificate, key in _PAIRS:
        chain = _content(secret, certificate)
        if chain and _content(secret, key):
            return _is_current(chain)
    return False


def _content(secret: Mapping[str, Any], key: str) -> bytes:
    # Files have plain text here, which an API server moves into `data`.
    plain = dig(secret, "stringData", key)
    if isinstance(plain, str):
        return plain.encode()
    encoded = dig(secret, "data", key)
    try:
        return (
            base64.b64decode(encoded, validate=True)
            if isinstance(encoded, str)
            else b""
        )
    except (binascii.Error, ValueError):
        return b""


def _is_current(chain: bytes) -> bool:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        return False
    now = datetime.now(UTC)
    # Every certificate of the chain: clients refuse a chain at its first bad link.
    return all(
        c.not_valid_before_utc <= now <= c.not_valid_after_utc for c in certificates
    )
