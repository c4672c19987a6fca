"""Rules of ProxyConfig."""

from __future__ import annotations

from dockermesh.config.api.proxy_config import ProxyConfig
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.scope import check_label_selector


def check_proxy_config(resource: Resource[ProxyConfig], at: Cursor) -> None:
    """All rules of a ProxyConfig."""
    check_label_selector(resource.spec.selector, at / "selector")
