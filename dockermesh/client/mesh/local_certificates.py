"""Until when the proxies of this host have certificates: told by themselves, so also without a
control plane.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dockermesh.client.inspect.proxies import local_proxies
from dockermesh.docker.admin import ProxyAdmin
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import DockermeshError
from dockermesh.model.contract import CONTROL_PLANE_CONTAINER
from dockermesh.model.times import time_text

_MOST_ASKED = 5
"""Each is asked by an exec in its pod. All were issued at about the same time, so a few are enough
to know.
"""


def away_warning(engine: LocalEngine) -> str:
    """What to say while no control plane renews the certificates of this host's proxies; empty if
    no proxy runs, or the control plane does, which only the caller did not reach then.
    """
    control_plane = engine.inspect(CONTROL_PLANE_CONTAINER)
    if control_plane is not None and control_plane["State"]["Running"]:
        return ""

    proxies = local_proxies(engine)
    if not proxies:
        return ""

    ends: list[datetime] = []
    for proxy in proxies[:_MOST_ASKED]:
        try:
            ends += expiries(json.loads(ProxyAdmin(engine, proxy.pod).get("/certs")))
        except (DockermeshError, ValueError):
            continue

    said = (
        f"{len(proxies)} proxies run without a control plane: nothing changes, and certificates are"
        " not renewed"
    )
    if not ends:
        return said

    left = min(ends) - datetime.now(UTC)
    hours = max(left.total_seconds(), 0) / 3600
    return f"{said}; the first expires in {hours:.1f} h, at {time_text(min(ends))}"


def expiries(page: Any) -> Iterator[datetime]:
    """When the workload's own certificates on Envoy's `/certs` page expire
    (admin.v3.Certificates).
    """
    for entry in page.get("certificates") or ():
        for certificate in (entry.get("cert_chain") or ())[:1]:
            names = [
                name.get("uri", "")
                for name in certificate.get("subject_alt_names") or ()
            ]
            if any(name.startswith("spiffe://") for name in names) and certificate.get(
                "expiration_time"
            ):
                yield datetime.fromisoformat(
                    certificate["expiration_time"].replace("Z", "+00:00")
                )
