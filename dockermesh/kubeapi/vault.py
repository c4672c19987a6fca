"""Secrets (`kubectl create secret tls`): checked when they are written, sealed while they are kept.

Invariant: neither the store, nor the config's history, nor an object in memory holds what a Secret
holds in plaintext; it is opened for a client of the API, and for the gateway whose credential it
is. A Secret that is swapped with another one in the store cannot be opened: what is sealed names
its key.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from dockermesh.ca import AuthorityError, Seal
from dockermesh.kubeapi.status import StatusCause, Target, invalid, unavailable

TLS_TYPE = "kubernetes.io/tls"
_OPAQUE = "Opaque"
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_SEALED = "sealed"
_PAIRS = (("tls.crt", "tls.key"), ("cert", "key"))
_ROOTS = ("ca.crt", "cacert")


class Vault:
    """Seals Secrets, and opens them."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def close(
        self, document: Mapping[str, Any], before: Mapping[str, Any] | None, key: str
    ) -> dict[str, Any]:
        """The Secret as it is stored; `before` is the stored one that it replaces."""
        annotations = dict(document["metadata"].get("annotations") or {})
        content = {
            "key": key,
            "data": document.get("data") or {},
            # kubectl copies the whole Secret into this annotation.
            "applied": annotations.pop(_APPLIED, ""),
        }
        metadata = {k: v for k, v in document["metadata"].items() if k != "annotations"}

        if annotations:
            metadata["annotations"] = annotations
        # The same content keeps its seal, so that a write that changes nothing is none.
        old = str((before or {}).get(_SEALED) or "")
        kept = old if old and self._content(before or {}, key) == content else ""
        sealed = kept or self._seal.close(json.dumps(content, sort_keys=True).encode())
        return {**_envelope(document), "metadata": metadata, _SEALED: sealed}

    def open(self, stored: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The Secret as clients know it. Raises StatusError (503) if it cannot be opened here."""
        content = self._content(stored, key)
        if content is None:
            raise unavailable(
                f"the Secret {key} was sealed with another key than this control plane's"
            )
        metadata = dict(stored.get("metadata") or {})
        if content["applied"]:
            metadata["annotations"] = {
                **(metadata.get("annotations") or {}),
                _APPLIED: content["applied"],
            }
        return {**_envelope(stored), "metadata": metadata, "data": content["data"]}

    def values(self, stored: Mapping[str, Any], key: str) -> dict[str, bytes]:
        """What the Secret holds; empty if it cannot be opened here."""
        content = self._content(stored, key)
        return (
            {name: base64.b64decode(text) for name, text in content["data"].items()}
            if content
            else {}
        )

    def _content(self, stored: Mapping[str, Any], key: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self._seal.open(str(stored.get(_SEALED) or ""), key))
        except (AuthorityError, ValueError):
            return None
        # A sealed document that was moved to another key is not that Secret.
        return (
            content if isinstance(content, dict) and content.get("key") == key else None
        )


def _envelope(document: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("apiVersion", "kind", "type", "immutable")
    return {field: document[field] for field in kept if field in document}


def check_secret(document: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The Secret with `stringData` taken over into `data`. Raises StatusError (422)."""
    data, causes = _data(document)
    kind = str(document.get("type") or _OPAQUE)
    values = (
        {} if causes else {name: base64.b64decode(text) for name, text in data.items()}
    )
    if kind == TLS_TYPE:
        causes += [
            StatusCause(f"data[{n}]", "Required value", "FieldValueRequired")
            # Kubernetes requires both of a Secret of this type.
            for n in _PAIRS[0]
            if n not in data
        ]
    if not causes:
        causes += [StatusCause("data", problem) for problem in _problems(values)]
    if causes:
        raise invalid(target, causes)

    made = {**_envelope(document), "metadata": document["metadata"], "type": kind}
    return made | ({"data": data} if data else {})


def _data(document: Mapping[str, Any]) -> tuple[dict[str, str], list[StatusCause]]:
    data, texts = document.get("data") or {}, document.get("stringData") or {}
    for field, value in (("data", data), ("stringData", texts)):
        if not isinstance(value, dict) or not all(
            isinstance(v, str) for v in value.values()
        ):
            return {}, [StatusCause(field, "must be a mapping of texts")]
    causes = []
    for name, text in data.items():
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            causes.append(StatusCause(f"data[{name}]", "must be base64"))
    return {
        **data,
        **{k: base64.b64encode(v.encode()).decode() for k, v in texts.items()},
    }, causes


def credential_pair(values: Mapping[str, bytes]) -> tuple[bytes, bytes] | None:
    """Certificate and key among a Secret's values, under the names of Kubernetes or of Istio's
    generic Secrets.
    """
    return next(
        ((values[c], values[k]) for c, k in _PAIRS if values.get(c) and values.get(k)),
        None,
    )


def credential_roots(values: Mapping[str, bytes]) -> bytes:
    """The certificates that others are checked against."""
    return next((values[name] for name in _ROOTS if values.get(name)), b"")


def _problems(values: Mapping[str, bytes]) -> list[str]:
    """What a proxy would refuse."""
    found = []
    pair, roots = credential_pair(values), credential_roots(values)
    if pair is not None:
        try:
            certificate = x509.load_pem_x509_certificates(pair[0])[0]
            key = load_pem_private_key(pair[1], None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            return [
                f"certificate or key is no PEM that can be used: {str(error)[:120]}"
            ]
        if _spki(certificate.public_key()) != _spki(key.public_key()):
            found.append("the key is not that of the certificate")

    if roots:
        try:
            x509.load_pem_x509_certificates(roots)
        except ValueError as error:
            found.append(
                f"the trusted certificates are no PEM that can be used: {str(error)[:120]}"
            )

    return found


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
