"""Which services get proxies, which follow another's pod, and which stay as they are.

Invariant: every service is in exactly one of the three groups, and the user is told about each that
is not meshed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.errors import InputError
from dockermesh.inject import names
from dockermesh.inject.options import InjectionFinding
from dockermesh.inject.proxy_config import LABEL
from dockermesh.inject.settings import (
    ProjectSettings,
    ServiceSettings,
    conventions,
    service_settings,
)
from dockermesh.inject.string_map import string_map
from dockermesh.model import PROXY_UID, contract
from dockermesh.model.service import SERVICE_NAME
from dockermesh.model.setup import NO_TTL

_RISKY_CAPABILITIES = frozenset({"NET_ADMIN", "NET_RAW", "ALL"})


@dataclass(frozen=True, slots=True)
class Meshed:
    """A service that gets a pod and a proxy per replica."""

    name: str
    project: str
    replicas: int
    definition: Mapping[str, Any]
    settings: ServiceSettings
    is_active: bool = True
    """Whether it is started, as far as profiles go."""

    @property
    def numbers(self) -> range:
        """The replicas' numbers; Compose counts from one."""
        return range(1, self.replicas + 1)

    def app(self, replica: int) -> str:
        """The Compose service of the app."""
        return names.app_name(self.name, replica, self.replicas)

    @property
    def apps(self) -> tuple[str, ...]:
        """The Compose services that stand for this one."""
        return tuple(self.app(n) for n in self.numbers)


@dataclass(frozen=True, slots=True)
class Plan:
    """The three groups, each by the service's name; `followers` maps to the owner of the pod.
    `known` are the names of all services in the file.
    """

    project: str
    meshed: Mapping[str, Meshed]
    followers: Mapping[str, str]
    known: frozenset[str] = frozenset()
    notices: tuple[InjectionFinding, ...] = field(default=())


def make_plan(
    project: Mapping[str, Any],
    settings: ProjectSettings,
    inactive: frozenset[str] = frozenset(),
) -> Plan:
    """Sort the services of `project`; `inactive` as in `InjectOptions`.

    Raises InputError for what cannot be meshed: the proxy's uid, one fixed address for several
    replicas, name clashes.
    """
    title = str(project.get("name") or "default")
    services: Mapping[str, Any] = project["services"]
    meshed: dict[str, Meshed] = {}
    notices: list[InjectionFinding] = []

    for name, definition in services.items():
        _refuse_meshed(name, definition)
        own = service_settings(name, definition, settings)
        count = replicas(definition)
        reason = _left_out(name, definition, own, count)

        if reason is None:
            _refuse_impossible(name, definition, count)
            meshed[name] = Meshed(
                name, title, count, definition, own, name not in inactive
            )
            if ignored := meshed[name].settings.proxy.ignored:
                text = f"of {LABEL} these have no effect: {', '.join(ignored)}"
                notices.append(InjectionFinding(name, text))
            notices += [
                InjectionFinding(name, text) for text in _warnings(definition, project)
            ]
        elif not str(definition.get("network_mode", "")).startswith("service:"):
            notices.append(InjectionFinding(name, f"left out of the mesh: {reason}"))

    followers = _followers(services, meshed, notices)
    _refuse_clashes(services, meshed)
    return Plan(title, meshed, followers, frozenset(services), tuple(notices))


def replicas(definition: Mapping[str, Any]) -> int:
    """How many containers the service has; `scale` and `deploy.replicas` may not differ, Compose
    sees to it.
    """
    deploy = definition.get("deploy") or {}
    for value in (deploy.get("replicas"), definition.get("scale")):
        if value is not None:
            return int(value)
    return 1


def _left_out(
    name: str, definition: Mapping[str, Any], settings: ServiceSettings, count: int
) -> str | None:
    mode = str(definition.get("network_mode") or "")
    if mode and mode != "default":
        return (
            f"network_mode {mode} gives it no network of its own that a pod could hold"
        )
    if not settings.inject:
        return "injection is switched off for it"
    if count == 0:
        return "it has no replicas"
    if definition.get("provider"):
        return "it is run by a provider, not as a container"
    if not SERVICE_NAME.fullmatch(name):
        return (
            "the mesh's names have at most 63 letters, digits, '-' and '_', and no dot"
        )

    return None


def _followers(
    services: Mapping[str, Any],
    meshed: Mapping[str, Meshed],
    notices: list[InjectionFinding],
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, definition in services.items():
        owner = _owner(name, services)
        if owner is None:
            continue

        if owner in meshed:
            _refuse_uid(name, definition)
            found[name] = owner
            notices.append(
                InjectionFinding(
                    name,
                    f"shares the network of {owner}: it follows into the pod of {owner}",
                )
            )
        else:
            notices.append(
                InjectionFinding(
                    name,
                    f"left out of the mesh: it shares the network of {owner}, which is not meshed",
                )
            )

    return found


def _owner(name: str, services: Mapping[str, Any]) -> str | None:
    """The service at the end of the chain of `network_mode: service:...`."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        kind, _, target = str(
            (services.get(name) or {}).get("network_mode") or ""
        ).partition(":")
        if kind != "service":
            return name if len(seen) > 1 else None
        name = target
    return None


def _refuse_meshed(name: str, definition: Mapping[str, Any]) -> None:
    if contract.LABEL_ROLE in string_map(definition.get("labels")):
        raise InputError(
            "the project is meshed already",
            where=f"services.{name}",
            fix="inject the Compose file it was made from",
        )


def _refuse_impossible(name: str, definition: Mapping[str, Any], count: int) -> None:
    _refuse_uid(name, definition)
    for network, attachment in (definition.get("networks") or {}).items():
        if (
            count > 1
            and attachment
            and (attachment.get("ipv4_address") or attachment.get("ipv6_address"))
        ):
            raise InputError(
                f"{count} replicas cannot share the fixed address on network {network!r}",
                where=f"services.{name}",
                fix="remove ipv4_address/ipv6_address, or run one replica",
            )


def _refuse_uid(name: str, definition: Mapping[str, Any]) -> None:
    """Traffic of the proxy's user and group is not captured, so an app that had them would bypass
    the mesh.
    """
    user = str(definition.get("user") or "")
    claimed = [*user.split(":", 1), *map(str, definition.get("group_add") or ())]

    if any(part.strip().isdigit() and int(part) == PROXY_UID for part in claimed):
        raise InputError(
            f"user or group {PROXY_UID} is the proxy's; as it, the app would bypass the mesh",
            where=f"services.{name}",
            fix=f"choose another user than {PROXY_UID}",
        )


def _warnings(definition: Mapping[str, Any], project: Mapping[str, Any]) -> list[str]:
    return [
        *_ways_around_capture(definition),
        *_loss_of_isolation(definition, project),
        *_aliases_of_links(definition),
        *_checks_without_effect(definition),
    ]


def _ways_around_capture(definition: Mapping[str, Any]) -> Iterator[str]:
    added = {
        str(cap).upper().removeprefix("CAP_") for cap in definition.get("cap_add") or ()
    }
    risky = sorted(added & _RISKY_CAPABILITIES)
    if definition.get("privileged"):
        yield "is privileged: it can change the capture rules of its pod"
    elif risky:
        yield f"has {', '.join(risky)}: it can get around the capture rules of its pod"

    if definition.get("pid") == "host":
        yield "sees the host's processes: it can enter other network namespaces"


def _loss_of_isolation(
    definition: Mapping[str, Any], project: Mapping[str, Any]
) -> Iterator[str]:
    known = project.get("networks") or {}
    own = [known.get(key) or {} for key in definition.get("networks") or ()]
    if own and all(network.get("internal") for network in own):
        yield (
            "was on internal networks only; its pod also joins the mesh network, which is not"
            " internal"
        )


def _aliases_of_links(definition: Mapping[str, Any]) -> Iterator[str]:
    for link in definition.get("links") or ():
        target, _, alias = str(link).partition(":")
        if alias and alias != target:
            yield (
                f"link {link}: {alias!r} is answered by Docker's DNS; routes of the mesh are for"
                f" {target!r}"
            )


def _checks_without_effect(definition: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(conventions(definition)):
        if re.fullmatch(r"SERVICE_(\d+_)?CHECK_TTL", key):
            yield f"{key} {NO_TTL}"


def _refuse_clashes(services: Mapping[str, Any], meshed: Mapping[str, Meshed]) -> None:
    taken = {name: name for name in services}
    for service in meshed.values():
        generated = [names.pod_name(service.name, n) for n in service.numbers]
        generated += [names.proxy_name(service.name, n) for n in service.numbers]
        generated += [app for app in service.apps if app != service.name]

        for name in generated:
            if name in taken:
                raise InputError(
                    f"the generated service {name!r} has the name of one in the file",
                    where=f"services.{service.name}",
                    fix=f"rename the service {taken[name]!r}",
                )

            taken[name] = service.name
