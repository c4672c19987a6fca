"""SPIFFE identities in Istio's form: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_ACCOUNT = "default"
"""The account of what has neither account nor service, as in Kubernetes."""


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
        if scheme != "spiffe" or len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa" or not all(parts):
            raise ValueError(f"not a workload identity: {uri!r}")
        return cls(parts[0], parts[2], parts[4])
