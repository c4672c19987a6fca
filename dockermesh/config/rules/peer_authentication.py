"""Rules of PeerAuthentication."""

from __future__ import annotations

from dockermesh.config.api.peer_authentication import PeerAuthentication
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.scope import check_label_selector


def check_peer_authentication(
    resource: Resource[PeerAuthentication], at: Cursor
) -> None:
    """All rules of a PeerAuthentication."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    selects = spec.selector is not None and bool(spec.selector.match_labels)
    if spec.port_level_mtls and not selects:
        (at / "portLevelMtls").error(
            "needs a selector: the mesh or a namespace has no ports of its own"
        )
