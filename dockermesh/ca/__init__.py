"""Identities and certificates."""

from dockermesh.ca.authority import LEAF_LIFETIME, Authority, AuthorityError, Leaf, write_private

__all__ = ["LEAF_LIFETIME", "Authority", "AuthorityError", "Leaf", "write_private"]
