"""Which proxies of this host run on the configuration that they kept.

Only themselves know while no control plane answers: the mark is a file in the volume of a pod.
"""

from __future__ import annotations

from dockermesh.client.inspect.proxies import local_proxies
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import DockermeshError
from dockermesh.model import PROXY_UID
from dockermesh.model.contract import KEPT_MARK

FIX = (
    "policies, routes and endpoints stay as they were; each takes what is new by itself once a"
    " control plane serves it: see `dockermesh ps` and `docker logs dockermesh-control-plane`"
)


def running_on_kept(engine: LocalEngine) -> str:
    """A sentence that names them; empty if there are none."""
    found = [
        f"{proxy.workload} ({since})"
        for proxy in local_proxies(engine)
        if (since := _mark(engine, proxy.pod))
    ]
    if not found:
        return ""
    return f"without a control plane, on what they kept: {', '.join(found)}"


def _mark(engine: LocalEngine, pod: str) -> str:
    try:
        code, text, _ = engine.execute(pod, ["cat", KEPT_MARK], user=str(PROXY_UID))
    except DockermeshError:
        return ""  # it ended meanwhile
    return text.decode("utf-8", "replace").strip() if code == 0 else ""
