"""Identities and certificates: the CA, its material at rest, and what it signs. Knows neither
Consul nor Envoy.
"""

from dockermesh.ca.authority import Authority
from dockermesh.ca.certificates import LEAF_LIFETIME, AuthorityError, Leaf
from dockermesh.ca.material import (
    NEXT,
    Material,
    Phase,
    Step,
    advance,
    from_json,
    new_material,
    to_json,
)
from dockermesh.ca.sealed_key import seal_password, sealed_key
from dockermesh.ca.sealing import Seal, open_seal, private_bytes, write_private

__all__ = [
    "LEAF_LIFETIME",
    "NEXT",
    "Authority",
    "AuthorityError",
    "Leaf",
    "Material",
    "Phase",
    "Seal",
    "Step",
    "advance",
    "from_json",
    "new_material",
    "open_seal",
    "private_bytes",
    "seal_password",
    "sealed_key",
    "to_json",
    "write_private",
]
