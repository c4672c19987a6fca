"""Identities and certificates."""

from dockermesh.ca.authority import Authority, AuthorityError, Leaf, write_private

__all__ = ["Authority", "AuthorityError", "Leaf", "write_private"]
