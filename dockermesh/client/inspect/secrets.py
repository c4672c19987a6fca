"""Certificates of a proxy, as `istioctl proxy-config secret` shows them. Source:
`istioctl/pkg/writer/compare/sds`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dockermesh.client.inspect.dump import Json
from dockermesh.model.times import time_text

COLUMNS = [
    "RESOURCE NAME",
    "TYPE",
    "STATUS",
    "VALID CERT",
    "SERIAL NUMBER",
    "NOT AFTER",
    "NOT BEFORE",
]
_ROOTS, _CHAIN = "CA", "Cert Chain"
_MOST_ROOTS = 4
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class SecretItem:
    """One certificate of a secret. Times are in RFC 3339; the serial number is hexadecimal."""

    name: str
    type: str
    state: str
    valid: bool = False
    serial_number: str = ""
    not_after: str = ""
    not_before: str = ""

    def row(self) -> list[str]:
        """The cells of the table."""
        valid = str(self.valid).lower()
        return [
            self.name,
            self.type,
            self.state,
            valid,
            self.serial_number,
            self.not_after,
            self.not_before,
        ]

    def to_dict(self) -> Json:
        """The same as JSON."""
        keys = (
            "name",
            "type",
            "state",
            "valid",
            "serialNumber",
            "notAfter",
            "notBefore",
        )
        values = (
            self.name,
            self.type,
            self.state,
            self.valid,
            self.serial_number,
            self.not_after,
            self.not_before,
        )
        return dict(zip(keys, values, strict=True))


def secret_items(
    secrets: Iterable[tuple[str, Json]], now: datetime
) -> list[SecretItem]:
    """The certificates of the secrets; a secret that Envoy does not have yet has one item without
    dates.
    """
    found: list[SecretItem] = []
    for state, secret in secrets:
        if "validation_context" in secret:
            kind, source = _ROOTS, secret["validation_context"].get("trusted_ca", {})
        else:
            kind, source = (
                _CHAIN,
                secret.get("tls_certificate", {}).get("certificate_chain", {}),
            )

        kind = kind if source else ""
        found += _items(str(secret.get("name", "")), kind, state, _content(source), now)

    return found


def _content(source: Json) -> bytes:
    if "inline_string" in source:
        return str(source["inline_string"]).encode()
    try:
        return base64.b64decode(source.get("inline_bytes", ""))
    except (binascii.Error, ValueError):
        return b""


def _items(
    name: str, kind: str, state: str, pem: bytes, now: datetime
) -> list[SecretItem]:
    from cryptography import x509

    blocks = _PEM.findall(pem)
    # Of a chain the leaf is meant; of roots, each, unless it is a whole system's bundle.
    is_one = kind == _CHAIN or len(blocks) > _MOST_ROOTS

    try:
        shown = [
            x509.load_pem_x509_certificate(block)
            for block in (blocks[:1] if is_one else blocks)
        ]
    except ValueError:
        shown = []

    if not shown:
        return [SecretItem(name, kind, state)]
    return [
        SecretItem(
            name,
            kind,
            state,
            c.not_valid_before_utc <= now <= c.not_valid_after_utc,
            f"{c.serial_number:x}",
            time_text(c.not_valid_after_utc),
            time_text(c.not_valid_before_utc),
        )
        for c in shown
    ]
