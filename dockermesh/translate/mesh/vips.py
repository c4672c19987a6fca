"""Virtual IPs out of 240.240.0.0/16: a pure function of the set of host names.

A host's address is the hash of its name; where two hosts fall on one address, the one first in the
order of the names' hashes has it and the other probes on. So replicas of the control plane agree, a
restart changes nothing, and a new host can move only those that probe through its address. Same
idea as Istio's auto-allocated addresses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

VIP_RANGE = "240.240.0.0/16"
_SIZE = (
    255 * 254
)  # the last octet is 1..254, the third 0..254, as in Istio: no network or broadcast look-alikes


def allocate_vips(hosts: Iterable[str]) -> dict[str, str]:
    """An address for every host.

    Raises ValueError when there are more hosts than addresses (64,770).
    """
    ordered = sorted(
        (hashlib.blake2b(host.encode(), digest_size=16).digest(), host)
        for host in set(hosts)
    )
    if len(ordered) > _SIZE:
        raise ValueError(
            f"{len(ordered)} services need more virtual addresses than 240.240.0.0/16 has"
        )

    taken: set[int] = set()
    vips: dict[str, str] = {}

    for digest, host in ordered:
        slot = int.from_bytes(digest[:8], "big") % _SIZE
        # A step of its own for each name: names that collide once do not collide all along.
        step = 1 + int.from_bytes(digest[8:], "big") % (_SIZE - 1)
        while slot in taken:
            slot = (slot + step) % _SIZE
            step = 1 if step > 1 else step

        taken.add(slot)
        vips[host] = f"240.240.{slot // 254}.{slot % 254 + 1}"

    return vips
