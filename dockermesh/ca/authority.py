"""The mesh's certificate authority: signs leaves under the material that it was given last.

Invariant: what it signs and what it says is trusted always come from one and the same material.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dockermesh.ca.certificates import (
    LEAF_LIFETIME,
    Leaf,
    sign_leaf,
    utf8_string,
)
from dockermesh.ca.material import Material
from dockermesh.model import Identity
from dockermesh.model.contract import CERTIFICATE_FACTS

FACTS_ID = x509.ObjectIdentifier(CERTIFICATE_FACTS)


class Authority:
    """Signs leaves. `on_change` are told whenever other material is in force."""

    def __init__(self, material: Material) -> None:
        self._material = material
        # Called in order: files that pods read come before what proxies are told.
        self.on_change: list[Callable[[], None]] = []

    @property
    def material(self) -> Material:
        """What is in force. It holds the key: not to be shown."""
        return self._material

    @property
    def roots_pem(self) -> bytes:
        """All trusted roots in PEM. Not a secret."""
        return self._material.roots_pem

    def install(self, material: Material) -> None:
        """Put other material in force."""
        self._material = material
        for tell in self.on_change:
            tell()

    def is_current(self, leaf: Leaf, now: datetime.datetime) -> bool:
        """Whether a leaf can go on being used: fresh, and signed by the present signer."""
        return leaf.signer == self._material.signer.id and leaf.is_fresh(now)

    def issue_server(
        self, dns_names: Sequence[str], lifetime: datetime.timedelta = LEAF_LIFETIME
    ) -> Leaf:
        """A server certificate for these DNS names. Raises AuthorityError."""
        names = [x509.DNSName(name) for name in dns_names]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        return sign_leaf(
            self._material.signer,
            names,
            usages,
            lifetime,
            datetime.datetime.now(datetime.UTC),
            "server",
        )

    def issue_workload(
        self,
        identity: Identity,
        lifetime: datetime.timedelta = LEAF_LIFETIME,
        *,
        holder: str = "",
        facts: str = "",
        now: datetime.datetime | None = None,
    ) -> Leaf:
        """The certificate of a workload: an X.509-SVID, good for both sides of a connection.

        `holder` tells apart who have the same identity: each has a key of its own. `facts` are what
        peers may say of it in their metrics. Raises AuthorityError.
        """
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
        if facts:
            names.append(x509.OtherName(FACTS_ID, utf8_string(facts)))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        now = now or datetime.datetime.now(datetime.UTC)
        return sign_leaf(
            self._material.signer, names, usages, lifetime, now, f"workload {holder}"
        )
