"""What has to be translated again when a part of the mesh's state is another one.

`MAKES_STALE` is what `Translator`, and nothing else, decides by: whoever adds a field to
`MeshState` says here what is made of it, and a test refuses a field that is not listed. What is
told apart by more than the field (which services changed, which endpoints) is compared where it is
made.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import StrEnum

from dockermesh.translate.mesh.state import MeshState


class Stale(StrEnum):
    """What is kept between two states, and made anew when something it was made of changed."""

    INDEX = "the config by what it applies to; every service is compared by its inputs"
    INBOUND = "inbound listeners and clusters"
    GATEWAYS = "what gateways have of their own"
    DECLARED_PORTS = "the ports to which ServiceEntries lead"


_NOTHING: frozenset[Stale] = frozenset()
_CONFIG = frozenset({Stale.INDEX, Stale.GATEWAYS})

MAKES_STALE: Mapping[str, frozenset[Stale]] = {
    "config": _CONFIG,
    "settings": _CONFIG | {Stale.INBOUND},
    # Hosts in resources are resolved by them.
    "names": _CONFIG,
    "jwks": _CONFIG,
    "modules": _CONFIG,
    "declared": frozenset({Stale.DECLARED_PORTS}),
    # Each service is compared for itself, by its object and then by its `Inputs`.
    "services": _NOTHING,
    # Made anew together with `names`, and only then.
    "own_names": _NOTHING,
    "vips": _NOTHING,
    "owners": _NOTHING,
    # What of them matters is in `services`.
    "workloads": _NOTHING,
    "shared_names": _NOTHING,
    "attestation": _NOTHING,
    "ownership": _NOTHING,
    "owned": _NOTHING,
    # What of them matters is in `settings`.
    "base_settings": _NOTHING,
}


def stale_after(before: MeshState, after: MeshState) -> frozenset[Stale]:
    """What was made of the state before and does not hold for the one after it."""
    changed = (n for n in MAKES_STALE if getattr(before, n) is not getattr(after, n))
    return _NOTHING.union(*(MAKES_STALE[name] for name in changed))


def hosts_changed(before: MeshState, after: MeshState, ruled: Set[str]) -> Set[str]:
    """The hosts whose service is another object than before, or is gone, that have other rules
    (`ruled`), or another address: what is for a shared service is for what a project has of its
    name, too.
    """
    moved: set[str] = set(ruled)
    if after.vips is not before.vips:
        moved.update(host for host, _ in after.vips.items() ^ before.vips.items())
    if after.owners is not before.owners:
        moved.update(host for _, host in after.owners.items() ^ before.owners.items())

    kept = before.services
    changed = {
        host
        for host, service in after.services.items()
        if kept.get(host) is not service or host in moved or service.shared in moved
    }
    return changed | moved | (kept.keys() - after.services.keys())
