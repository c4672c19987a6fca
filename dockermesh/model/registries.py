"""The registries that `--registry` may name, and what a mesh runs for each of them.

Invariant: whoever starts or builds something asks here, and compares no name. What a control plane
does with a registry is its backend's (`controlplane/backends.py`), under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFAULT_REGISTRY = "consul"

SERVERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {DEFAULT_REGISTRY: frozenset({"consul"}), "docker": frozenset()}
)
"""Registries by name, each with its own servers: services of mesh.yaml, and images so called, that
no other registry needs.
"""


def foreign_servers(registry: str) -> frozenset[str]:
    """The servers that a mesh with this registry does without."""
    return frozenset().union(*SERVERS.values()) - SERVERS[registry]
