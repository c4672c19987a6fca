"""A container as the registrar needs it, read from `docker inspect` once and immutable after.

Invariant: reading never fails on missing fields, since engines of different versions leave
different ones out. The mesh's own labels count only on containers that were made for it, and not
because an image has them.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dockermesh.model.contract import (
    LABEL_ACCOUNT,
    LABEL_PREFIX,
    LABEL_ROLE,
    LABEL_SERVICE,
    LABEL_WORKLOAD,
    TRUST_PATH,
)
from dockermesh.model.identity import account_of
from dockermesh.model.service import NO_LABELS

_STOP_TIMEOUT = 10
_MOST_OUTPUT = 512
_SHORT_ID = re.compile(r"[0-9a-f]{4,64}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?$")


@dataclass(frozen=True, slots=True)
class State:
    """Docker's state of a container; times in nanoseconds since the epoch, 0 for never; health
    empty without check.
    """

    status: str = ""
    running: bool = False
    paused: bool = False
    restarting: bool = False
    exit_code: int = 0
    error: str = ""
    started: int = 0
    finished: int = 0
    health: str = ""
    health_output: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a port is published on the host."""

    ip: str
    port: str


@dataclass(frozen=True, slots=True)
class Container:
    """One container. `bindings` maps `9080/tcp` to its first publication, None when it is exposed
    only. `bridges` are the host's own addresses on its networks. `created` is a time like those of
    its state. `is_node_mode`: its host's proxy serves it (`node_mode.py`); its labels are those of
    a workload then.
    """

    id: str
    name: str
    image: str = ""
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    exposed: tuple[str, ...] = ()
    bindings: Mapping[str, Binding | None] = field(
        default_factory=lambda: MappingProxyType({})
    )
    ip: str = ""
    networks: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    bridges: tuple[str, ...] = ()
    network_mode: str = ""
    restart_policy: str = ""
    stop_signal: str = ""
    stop_timeout: int = 10
    state: State = State()
    created: int = 0
    is_node_mode: bool = False
    raw: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    @property
    def role(self) -> str:
        """`pod`, `proxy`, `app`, or empty for a container outside the mesh."""
        return self.labels.get(LABEL_ROLE, "")

    @property
    def joined(self) -> str:
        """The id of the container whose network it joined, or empty."""
        mode, _, owner = self.network_mode.partition(":")
        return owner if mode == "container" else ""

    @property
    def has_nameless_image(self) -> bool:
        """Whether its image was given by id, as `sha256:...` or a beginning of that."""
        known = str(self.raw.get("Image") or "").removeprefix("sha256:")
        given = self.image.removeprefix("sha256:")
        if given != self.image:
            return True
        return bool(_SHORT_ID.fullmatch(given)) and known.startswith(given)

    @property
    def incarnation(self) -> str:
        """Names this run of the container: restarting it makes a new one."""
        return f"{self.id}@{self.state.started}"

    @property
    def group(self) -> str:
        """What is handled together, one event after the other: a workload's containers, else the
        container alone.
        """
        return group_of(self.id, self.labels)

    def account(self, service: str) -> str:
        """The service account that a pod, or an app without one, stands for; `service` is the
        service's name.
        """
        return account_of(
            self.labels.get(LABEL_ACCOUNT, ""),
            self.labels.get(LABEL_SERVICE, ""),
            service,
        )

    def address(self, network: str) -> str:
        """The address on `network`; without one the default bridge's, else that of the first
        network by name.
        """
        preferred = self.networks.get(network) or self.ip
        return preferred or next(
            (ip for _, ip in sorted(self.networks.items()) if ip), ""
        )


def group_of(container_id: str, labels: Mapping[str, str]) -> str:
    """The group of a container of which only id and labels are known, as in events and listings."""
    return labels.get(LABEL_WORKLOAD) or container_id[:12]


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of Docker's RFC 3339 time; 0 for the zero time and for what is
    not a time.
    """
    match = _TIME.match(text or "")
    if not match or text.startswith("0001"):
        return 0
    seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    zone = match[3] or "Z"
    if zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    return seconds * 1_000_000_000 + int((match[2] or "0")[:9].ljust(9, "0"))


@dataclass(frozen=True, slots=True)
class _Read:
    """An object of `docker inspect`, in which everything may be missing, or null."""

    data: Mapping[str, Any]

    def part(self, name: str) -> _Read:
        return _Read(self.mapping(name))

    def mapping(self, name: str) -> Mapping[str, Any]:
        return self.data.get(name) or {}

    def items(self, name: str) -> list[Any]:
        return list(self.data.get(name) or ())

    def text(self, *names: str) -> str:
        """The first of these that says something."""
        return next(
            (str(found) for name in names if (found := self.data.get(name))), ""
        )

    def number(self, name: str, default: int = 0) -> int:
        return self.data.get(name) or default

    def moment(self, name: str) -> int:
        return parse_time(self.text(name))


def parse_container(inspect: Mapping[str, Any]) -> Container:
    """The container described by one object of `docker inspect`."""
    top = _Read(inspect)
    config, host, settings = (
        top.part("Config"),
        top.part("HostConfig"),
        top.part("NetworkSettings"),
    )
    networks = _addresses(settings.mapping("Networks"))
    # API 1.52 (Docker 29) has the default bridge's address among the networks' only.
    bridged = settings.text("IPAddress") or networks.get("bridge", "")

    return Container(
        id=top.text("Id", "ID"),
        name=top.text("Name").lstrip("/"),
        image=config.text("Image"),
        env=tuple(config.items("Env")),
        labels=MappingProxyType(_believed(config.mapping("Labels"), host)),
        exposed=_port_keys(config.mapping("ExposedPorts")),
        bindings=MappingProxyType(_bindings(settings.mapping("Ports"))),
        ip=bridged,
        networks=MappingProxyType(networks),
        bridges=_bridges(settings.mapping("Networks")),
        network_mode=host.text("NetworkMode"),
        restart_policy=host.part("RestartPolicy").text("Name"),
        stop_signal=config.text("StopSignal"),
        stop_timeout=config.number("StopTimeout", _STOP_TIMEOUT),
        state=_state(top.part("State")),
        created=top.moment("Created"),
        raw={**inspect, "NetworkSettings": {**settings.data, "IPAddress": bridged}},
    )


def _addresses(networks: Mapping[str, Any]) -> dict[str, str]:
    # Docker's IPv4 address wins: it is the one that its DNS answers first.
    return {
        name: _Read(network or {}).text("IPAddress", "GlobalIPv6Address")
        for name, network in networks.items()
    }


def _bridges(networks: Mapping[str, Any]) -> tuple[str, ...]:
    found = (
        _Read(network or {}).text(key)
        for network in networks.values()
        for key in ("Gateway", "IPv6Gateway")
    )
    return tuple(sorted({address for address in found if address}))


def _bindings(ports: Mapping[str, Any]) -> dict[str, Binding | None]:
    return {port: _first(published) for port, published in ports.items()}


def _believed(labels: Mapping[str, str], host: _Read) -> dict[str, str]:
    """The labels, without the mesh's own where the container's image may have brought them.

    Docker shows the labels of image and container as one. What no image can set is how a container
    is made: a pod gets the mesh's root mounted, the others join a pod's network.
    """
    role = labels.get(LABEL_ROLE, "")
    if role == "pod":
        is_made_so = TRUST_PATH in _mount_targets(host)
    else:
        is_made_so = host.text("NetworkMode").startswith("container:")

    if not role or is_made_so:
        return dict(labels)
    return {
        key: value for key, value in labels.items() if not key.startswith(LABEL_PREFIX)
    }


def _mount_targets(host: _Read) -> set[str]:
    """Where whoever made the container had something mounted; an image's own volumes are not among
    it.
    """
    bound = {bind.split(":")[1] for bind in host.items("Binds") if ":" in bind}
    return bound | {mount.get("Target") or "" for mount in host.items("Mounts")}


def _port_keys(keys: Iterable[str]) -> tuple[str, ...]:
    # Compose writes `expose: ["9080"]` without the protocol, and ranges as they are.
    found = set()
    for key in keys:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(\w+))?", key)
        if match:
            first = int(match[1])
            found |= {
                f"{n}/{match[3] or 'tcp'}"
                for n in range(first, min(int(match[2] or first), 65535) + 1)
            }
    return tuple(sorted(found))


def _first(bindings: list[dict[str, str]] | None) -> Binding | None:
    if not bindings:
        return None
    first = _Read(bindings[0])
    return Binding(first.text("HostIp"), first.text("HostPort"))


def _state(state: _Read) -> State:
    health = state.part("Health")
    status, log = health.text("Status"), health.items("Log")
    output = _Read(log[-1]).text("Output")[:_MOST_OUTPUT] if log else ""

    return State(
        status=state.text("Status"),
        running=bool(state.data.get("Running")),
        paused=bool(state.data.get("Paused")),
        restarting=bool(state.data.get("Restarting")),
        exit_code=state.number("ExitCode"),
        error=state.text("Error"),
        started=state.moment("StartedAt"),
        finished=state.moment("FinishedAt"),
        # An image's check that a container turned off is called so.
        health="" if status == "none" else status,
        health_output=output,
    )
