"""Small projects in the form of `docker compose config`, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockermesh.inject.options import Injection, InjectOptions
from dockermesh.inject.project import inject_project


def service(**keys: Any) -> dict[str, Any]:
    network = {} if "network_mode" in keys else {"networks": {"default": None}}
    return {"image": "busybox", **network, **keys}


def port(target: int, published: str, **more: Any) -> dict[str, Any]:
    return {
        "mode": "ingress",
        "target": target,
        "published": published,
        "protocol": "tcp",
        **more,
    }


def mesh(
    services: Mapping[str, Mapping[str, Any]],
    options: InjectOptions | None = None,
    **top: Any,
) -> Injection:
    project = {
        "name": "shop",
        "services": services,
        "networks": {"default": {"name": "shop_default"}},
        **top,
    }
    return inject_project(project, options or InjectOptions())
