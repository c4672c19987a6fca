"""Which containers the proxy of their host serves, and as what: the one place that decides, for
registrar and agent.

A container in node mode was made by the user, not by us: what it is follows from what the engine
says of how it was made. An image may bring any label (those that Compose builds bring its project
and service) and environment. So what decides who it is counts only where the image does not say the
same, and Compose's labels only where the engine knows the container by its service's name on one of
its networks, which no image can ask for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from dockermesh.model.attached import Attached
from dockermesh.model.contract import (
    COMPOSE_LABELS,
    COMPOSE_NUMBER,
    COMPOSE_ONE_OFF,
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_ACCOUNT,
    LABEL_INJECT,
    LABEL_LABELS,
    LABEL_MODE,
    LABEL_NAMESPACE,
    LABEL_PREFIX,
    LABEL_ROLE,
    LABEL_SERVICE,
    LABEL_WORKLOAD,
    MESH_PROJECT,
    NAMESPACES_PATH,
    PROXY_UID,
)
from dockermesh.model.identity import account_of
from dockermesh.model.service import NO_LABELS
from dockermesh.model.workload import ProxyMode
from dockermesh.model.workload_labels import (
    conventions,
    mesh_name,
    workload_labels,
)
from dockermesh.registrar.container import Container

LOOSE = "containers"
"""The project of containers that no Compose file made."""
_OF_USERS = frozenset({LABEL_ACCOUNT, LABEL_NAMESPACE})
"""Labels of the mesh that users give their own services."""
_OF_HOST = "default"
"""The namespace that is the host's own has this name among Docker's."""
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class Brought:
    """What an image brings to its containers."""

    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    env: frozenset[str] = frozenset()


class Images:
    """What images bring, each asked for once; `ask` gives an image's config, None if it is gone."""

    def __init__(
        self, ask: Callable[[str], Awaitable[Mapping[str, Any] | None]]
    ) -> None:
        self._ask = ask
        self._known: dict[str, Brought] = {}

    async def of(self, inspect: Mapping[str, Any]) -> Brought:
        """What the image of this container brought (an object of `docker inspect`)."""
        image = str(inspect.get("Image") or "")
        if image not in self._known:
            config = await self._ask(image)
            # Of one that is gone nobody knows: what it could have brought is not believed.
            said = inspect.get("Config") or {} if config is None else config
            self._known[image] = Brought(
                MappingProxyType(dict(said.get("Labels") or {})),
                frozenset(said.get("Env") or ()),
            )
        return self._known[image]


def is_asked_for(name: str, labels: Mapping[str, str], attached: Attached) -> bool:
    """Whether somebody asks for node mode, as far as labels tell, which may be an image's: then
    `as_workload` decides.
    """
    if LABEL_ROLE in labels or labels.get(COMPOSE_PROJECT) == MESH_PROJECT:
        return False
    return (
        labels.get(LABEL_MODE) == ProxyMode.NODE
        or labels.get(COMPOSE_PROJECT) in attached.projects
        or name in attached.containers
    )


def workload_name(name: str, labels: Mapping[str, str]) -> str:
    """What a container's workload is called: `<project>/<service>-<replica>`."""
    project, service = labels.get(COMPOSE_PROJECT), labels.get(COMPOSE_SERVICE)
    if not project or not service:
        return f"{LOOSE}/{name}-1"
    number = labels.get(COMPOSE_NUMBER, "")
    return f"{project}/{service}-{number if _NUMBER.fullmatch(number) else '1'}"


def as_workload(container: Container, image: Brought, attached: Attached) -> Container:
    """The container with the labels of a workload in node mode, if it is one; else as it is."""
    if not is_asked_for(container.name, container.labels, attached):
        return container
    own = _own(container, image)
    if _stays_out(container, own, attached):
        return container

    service = own.get(COMPOSE_SERVICE) or container.name
    said = _said(container, own, image)
    called = mesh_name(service, said, is_single=len(_ports(container)) <= 1)
    account = own.get(LABEL_ACCOUNT) or said.get("SERVICE_ACCOUNT") or called
    given = {
        LABEL_ROLE: "app",
        LABEL_WORKLOAD: workload_name(container.name, own),
        LABEL_SERVICE: service,
        # What cannot be one is none, as for a registration.
        LABEL_ACCOUNT: account_of(account, service),
        LABEL_LABELS: json.dumps(workload_labels(called, own, said), sort_keys=True),
    }
    labels = {k: v for k, v in own.items() if not k.startswith(LABEL_PREFIX)}
    of_users = {k: v for k, v in own.items() if k in _OF_USERS}
    return replace(
        container,
        labels=MappingProxyType({**labels, **of_users, **given}),
        is_node_mode=True,
    )


def namespace_path(container: Container) -> str:
    """The file of its network namespace as the host's agent and proxy see it; empty while it has
    none of its own.
    """
    key = str((container.raw.get("NetworkSettings") or {}).get("SandboxKey") or "")
    name = key.rpartition("/")[2]
    has_own = name not in {"", _OF_HOST} and container.state.running
    return f"{NAMESPACES_PATH}/{name}" if has_own else ""


def _said(
    container: Container, own: Mapping[str, str], image: Brought
) -> dict[str, str]:
    """The `SERVICE_*` metadata that is not the image's."""
    env = dict(e.partition("=")[::2] for e in container.env if e not in image.env)
    labels = {k: v for k, v in own.items() if image.labels.get(k) != v}
    return conventions(env, labels)


def _ports(container: Container) -> set[str]:
    return {*container.exposed, *container.bindings}


def _own(container: Container, image: Brought) -> dict[str, str]:
    """The labels that are believed: not the mesh's or Compose's that the image may have brought."""
    is_composes = _is_made_by_compose(container)
    return {
        key: value
        for key, value in container.labels.items()
        if (
            is_composes
            if key.startswith(COMPOSE_LABELS)
            else key.startswith("SERVICE_") or image.labels.get(key) != value
        )
    }


def _is_made_by_compose(container: Container) -> bool:
    service = container.labels.get(COMPOSE_SERVICE, "")
    settings: Mapping[str, Any] = container.raw.get("NetworkSettings") or {}
    networks = (settings.get("Networks") or {}).values()
    return bool(service) and any(
        service in ((network or {}).get("Aliases") or ()) for network in networks
    )


def _user(container: Container) -> str:
    config = container.raw.get("Config") or {}
    return str(config.get("User") or "").partition(":")[0]


def _stays_out(
    container: Container, own: Mapping[str, str], attached: Attached
) -> bool:
    namespace = own.get(LABEL_NAMESPACE, "default")
    return (
        not is_asked_for(container.name, own, attached)
        or own.get(LABEL_MODE) == ProxyMode.SIDECAR
        or own.get(LABEL_INJECT, "").lower() == "false"
        or own.get(COMPOSE_ONE_OFF, "").lower() == "true"
        # What this user sends is taken for the proxy's.
        or _user(container) == str(PROXY_UID)
        # In the host's network, in none, or in another container's.
        or container.network_mode.partition(":")[0] in {"host", "none", "container"}
        or _NAMESPACE.fullmatch(namespace) is None
    )
