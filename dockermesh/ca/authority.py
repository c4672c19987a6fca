"""The mesh's certificate authority: signs leaves under the material that it was given last.

Invariant: what it signs and what it says is trusted always come from one and the same material.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dockermesh.ca.certificates import LEAF_LIFETIME, Leaf, sign_leaf
from dockermesh.ca.material import Material
from dockermesh.model import Identity


class Authority:
    """Signs leaves. `on_change` are told whenever other material is in force."""

    def __init__(self, material: Material) -> None:
        self._material = material
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

    def issue_server(self, dns_names: Sequence[str], lifetime: datetime.timedelta = LEAF_LIFETIME) -> Leaf:
        """A server certificate for these DNS names. Raises AuthorityError."""
        names = [x509.DNSName(name) for name in dns_names]
        return self._issue(names, [ExtendedKeyUsageOID.SERVER_AUTH], lifetime)

    def issue_workload(self, identity: Identity, lifetime: datetime.timedelta = LEAF_LIFETIME) -> Leaf:
        """The certificate of a workload: an X.509-SVID, good for both sides of a connection. Raises AuthorityError."""
        names = [x509.UniformResourceIdentifier(str(identity))]
        return self._issue(names, [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], lifetime)

    def _issue(
        self, names: Sequence[x509.GeneralName], usages: Sequence[x509.ObjectIdentifier], lifetime: datetime.timedelta
    ) -> Leaf:
        return sign_leaf(self._material.signer, names, usages, lifetime, datetime.datetime.now(datetime.UTC))
