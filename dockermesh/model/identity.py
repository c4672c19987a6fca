"""SPIFFE identities in Istio's form: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

This is the one place that says which account a workload has. Everybody who needs to know asks here,
because what a workload's certificate says and what its peers expect must be the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_ACCOUNT = "default"
"""The account of what has neither account nor service, as in Kubernetes."""
ACCOUNT_META = "account"
"""Consul meta that registrator makes of `SERVICE_ACCOUNT`."""

_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Who a workload is. Source: SPIFFE-ID specification; Istio `pkg/spiffe`."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity written as `uri`.

        Raises ValueError if it is not of Istio's form.
        """
        scheme, _, rest = uri.partition("://")
        parts = rest.split("/")
        if (
            scheme != "spiffe"
            or len(parts) != 5
            or parts[1] != "ns"
            or parts[3] != "sa"
            or not all(parts)
        ):
            raise ValueError(f"not a workload identity: {uri!r}")

        return cls(parts[0], parts[2], parts[4])


def is_identity_part(text: str) -> bool:
    """Whether it can be the namespace or account of an identity, which as a path segment of SPIFFE
    has no escapes.
    """
    return text not in (".", "..") and _SEGMENT.fullmatch(text) is not None


def account_of(declared: str, *services: str) -> str:
    """The account of a workload: the one declared for it, else the first name of its service that
    can be one.
    """
    return next(
        (text for text in (declared, *services) if is_identity_part(text)),
        DEFAULT_ACCOUNT,
    )
