"""References from one service to another, rewritten to the services that now stand for it.

Invariant: a reference to a service that was not expanded, and that does not concern its network,
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockermesh.inject import names
from dockermesh.inject.plan import Plan


def depends_on(value: Any, plan: Plan) -> dict[str, Any]:
    """`depends_on` in its long form, naming all replicas of each service; conditions kept.

    What may be missing (`required: false`) and is, as a service of another profile, is left out:
    Compose forgives that only where the file has the service at all.
    """
    if not isinstance(value, Mapping):
        value = {
            str(name): {"condition": "service_started", "required": True}
            for name in value or ()
        }
    found: dict[str, Any] = {}
    for name, condition in value.items():
        if name not in plan.known and not condition.get("required", True):
            continue
        for stand_in in _apps(name, plan):
            found[stand_in] = dict(condition)
    return found


def links(value: Any, plan: Plan) -> list[str]:
    """`links` of a pod: Docker resolves a link to the container that owns the address, so to the
    linked pods.
    """
    found: list[str] = []
    for link in value or ():
        target, _, alias = str(link).partition(":")
        service = plan.meshed.get(target)
        pods = (
            [names.pod_name(target, n) for n in service.numbers]
            if service
            else [target]
        )
        found += [f"{pod}:{alias or target}" for pod in pods]
    return found


def rewritten(definition: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """A copy of the service with `depends_on` and shared namespaces and volumes pointing at the
    right services.
    """
    copy = dict(definition)
    if definition.get("depends_on"):
        copy["depends_on"] = depends_on(definition["depends_on"], plan)
        if not copy["depends_on"]:
            del copy["depends_on"]

    for key in ("pid", "ipc"):
        kind, _, target = str(definition.get(key) or "").partition(":")
        if kind == "service":
            # A namespace can be shared with one container only; Compose, too, takes the first
            # replica.
            copy[key] = f"service:{_apps(target, plan)[0]}"

    if definition.get("volumes_from"):
        copy["volumes_from"] = [
            _volumes_from(str(item), plan) for item in definition["volumes_from"]
        ]

    return copy


def _volumes_from(item: str, plan: Plan) -> str:
    if item.startswith("container:"):
        return item
    target, colon, mode = item.partition(":")
    return f"{_apps(target, plan)[0]}{colon}{mode}"


def _apps(name: str, plan: Plan) -> tuple[str, ...]:
    service = plan.meshed.get(name)
    return service.apps if service else (name,)
