"""The pure mapping from a container to Consul registrations: registrator's, and our additions for
pods.

Source: registrator, `bridge/bridge.go` (add, newService). Invariant: the same containers and
options give the same registrations, in the same order; nothing is ever registered twice under one
id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dockermesh.model import (
    ADMIN_PORT,
    DNS_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    PROMETHEUS_PORT,
    READINESS_PORT,
    contract,
)
from dockermesh.model.contract import (
    META_ACCOUNT,
    META_CONTAINER,
    META_HASH,
    META_HOST,
    META_NAMESPACE,
    META_SERVICE,
    META_WORKLOAD,
)
from dockermesh.model.protocol import Protocol, infer_protocol
from dockermesh.model.service import NO_LABELS
from dockermesh.registrar import gotemplate
from dockermesh.registrar.checks import (
    Check,
    HealthStatus,
    Target,
    can_be_asked,
    check_id,
    declared_check,
    docker_check,
    docker_health,
    socket,
)
from dockermesh.registrar.container import Binding, Container
from dockermesh.registrar.metadata import (
    MAX_META_KEYS,
    Metadata,
    clean_meta,
    clean_tags,
    id_fault,
    label_address,
    name_fault,
    service_metadata,
    split_tags,
)
from dockermesh.registrar.options import Options

# They are the proxy's, whatever an image exposes.
_PROXY_PORTS = {
    ADMIN_PORT,
    OUTBOUND_PORT,
    INBOUND_PORT,
    READINESS_PORT,
    DNS_PORT,
    PROMETHEUS_PORT,
}
_PROXY_KEYS = frozenset(f"{n}/{p}" for n in _PROXY_PORTS for p in ("tcp", "udp"))


@dataclass(frozen=True, slots=True)
class Registration:
    """One service instance to be registered.

    `check` is the declared one if Consul asks it, `own_check` if the registrar does, and `health`
    what the registrar knows. `own_id` is the id that it has where nobody chose one, or where the
    chosen one is another's.
    """

    id: str
    name: str
    port: int
    address: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    check: Check | None = None
    own_check: Check | None = None
    health: HealthStatus | None = None
    own_id: str = ""

    @property
    def socket(self) -> str:
        """Address and port, IPv6 in brackets."""
        return socket(self.address, self.port)

    @property
    def where(self) -> str:
        """What it is called and where it is."""
        return f"{self.name}@{self.socket}"

    @property
    def protocol(self) -> Protocol:
        """What is spoken on the port."""
        if "udp" in self.tags:
            return Protocol.UDP
        return infer_protocol(declared=self.meta.get("protocol", ""), number=self.port)

    @property
    def fingerprint(self) -> str:
        """A hash of everything but the momentary health: equal means that there is nothing to
        register again.
        """
        body = self._definition()
        for check in [body.get("Check") or {}, *body.get("Checks", ())]:
            check.pop("Status", None)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[
            :16
        ]

    def body(self) -> dict[str, Any]:
        """The body for `/v1/agent/service/register`."""
        body = self._definition()
        return body | {"Meta": body["Meta"] | {META_HASH: self.fingerprint}}

    def _definition(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "ID": self.id,
            "Name": self.name,
            "Tags": list(self.tags),
            "Port": self.port,
        }
        body |= {"Address": self.address, "Meta": dict(self.meta)}
        docker = dict(docker_check(self.id, self.health)) if self.health else None
        if self.check is not None:
            body["Check"] = dict(self.check)
            if docker:
                body["Checks"] = [docker]
        elif docker:
            body["Check"] = docker

        return body

    @property
    def check_id(self) -> str:
        """The id of the check that carries `health`."""
        return check_id(self.id)


@dataclass(frozen=True, slots=True)
class MappingFinding:
    """Why something of a container was left out; `is_warning`: somebody has to look at it."""

    container: str
    reason: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class _Port:
    exposed: str
    protocol: str
    binding: Binding | None


def map_container(
    container: Container, owner: Container | None, options: Options
) -> tuple[tuple[Registration, ...], tuple[MappingFinding, ...]]:
    """The registrations of a running container; `owner` is the container whose network it joined,
    if it did.
    """
    if reason := _excluded(container):
        return (), (MappingFinding(container.name, reason),)

    ports = _served_ports(container, owner, options)
    if not ports:
        return (), (MappingFinding(container.name, "no ports exposed or published"),)

    found: dict[str, Registration] = {}
    skipped: list[str] = []

    for port in ports:
        made = _Mapper(container, owner, options, port, len(ports) > 1).map()
        skipped += made.reasons
        if made.registration is None:
            continue
        # The first one keeps the id, as with registrator: to Consul the second would replace it.
        if (
            found.setdefault(made.registration.id, made.registration)
            is not made.registration
        ):
            skipped.append(f"service id {made.registration.id} is used by two ports")

    return tuple(found.values()), tuple(
        MappingFinding(container.name, r) for r in skipped
    )


def _served_ports(
    container: Container, owner: Container | None, options: Options
) -> list[_Port]:
    """Those that can be reached: within the mesh and at containers' own addresses all, else the
    published ones.
    """
    meshed = _is_meshed(container, owner)
    ports = _ports(container, owner if meshed else None)
    return ports if meshed or options.internal else [p for p in ports if _published(p)]


def _excluded(container: Container) -> str:
    if container.role and container.role != "app":
        return f"part of the mesh itself ({container.role})"
    if container.labels.get(contract.COMPOSE_ONE_OFF, "").lower() == "true":
        return "started by `docker compose run`"
    return ""


def _is_meshed(container: Container, owner: Container | None) -> bool:
    return container.role == "app" and (owner is None or owner.role == "pod")


def _published(port: _Port) -> bool:
    return port.binding is not None and bool(port.binding.port)


def _ports(container: Container, pod: Container | None) -> list[_Port]:
    # As registrator: exposed ports count as published under their own number, which holds for the
    # host's network; what Docker says of real publications then replaces that.
    exposed = set(container.exposed)
    if pod is not None:
        exposed |= {*pod.exposed, *pod.bindings} - _PROXY_KEYS

    found: dict[str, Binding | None] = {
        key: Binding("0.0.0.0", key.split("/")[0]) for key in exposed
    }
    found |= container.bindings
    ports = [
        _Port(key.split("/")[0], key.partition("/")[2] or "tcp", binding)
        for key, binding in found.items()
    ]

    return sorted(ports, key=lambda p: (int(p.exposed), p.protocol))


@dataclass(frozen=True, slots=True)
class _Mapped:
    registration: Registration | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Mapper:
    """Maps one port of a container."""

    container: Container
    owner: Container | None
    options: Options
    port: _Port
    is_group: bool

    def map(self) -> _Mapped:
        meta = service_metadata(
            self.container.env, self.container.labels, self.port.exposed
        )
        if meta.get("ignore"):
            return _Mapped(None, (f"port {self.port.exposed} is ignored",))
        name = self._name(meta)
        if not name:
            return _Mapped(None, (f"port {self.port.exposed} has no SERVICE_NAME",))
        service_id = meta.get("id") or self._default_id()
        address, fault = self._address()
        for problem in (fault, name_fault(name), id_fault(service_id)):
            if problem:
                return _Mapped(None, (problem,))
        return self._registration(meta, name, service_id, address)

    def _registration(
        self, meta: Metadata, name: str, service_id: str, address: str
    ) -> _Mapped:
        tags, bad_tags = clean_tags(self._tags(meta))
        own = self._own_meta(name)
        rest = {k: v for k, v in meta.values.items() if k not in ("id", "tags", "name")}
        # Room for our own, and for the hash: Consul refuses the whole with one key too many.
        kept, bad_meta = clean_meta(rest, MAX_META_KEYS - len(own) - 1)
        number = self._number()
        check = declared_check(
            meta, Target(address, number, self.port.exposed, self.container.id)
        )
        is_ours = self.options.run_checks
        lost: tuple[str, ...] = ()
        if is_ours and check is not None and not can_be_asked(check):
            kind = next((k for k in ("TTL", "Args") if k in check), "check")
            check, lost = (
                None,
                (
                    f"its check ({kind}) is for a Consul beside it; only Docker's health counts",
                ),
            )

        registration = Registration(
            id=service_id,
            name=name,
            port=number,
            address=address,
            tags=tuple(tags),
            meta=MappingProxyType(kept | own),
            check=None if is_ours else check,
            own_check=check if is_ours else None,
            health=docker_health(self.container, self._pod),
            own_id=self._default_id(),
        )

        return _Mapped(registration, (*bad_tags, *bad_meta, *lost))

    @property
    def _pod(self) -> Container | None:
        return (
            self.owner if self.owner is not None and self.owner.role == "pod" else None
        )

    @property
    def _meshed(self) -> bool:
        return _is_meshed(self.container, self.owner)

    def _name(self, meta: Metadata) -> str:
        name = meta.get("name")
        if not name:
            default = (
                self.container.labels.get(contract.LABEL_SERVICE, "")
                if self._meshed
                else ""
            )
            if self.options.explicit and not default:
                return ""
            name = default or image_name(self.container.image)
        return (
            f"{name}-{self.port.exposed}"
            if self.is_group and "name" not in meta.from_port
            else name
        )

    def _default_id(self) -> str:
        host = self.options.hostname or (
            self.port.binding.ip if self.port.binding else ""
        )
        suffix = ":udp" if self.port.protocol == "udp" else ""
        return f"{host}:{self.container.name}:{self.port.exposed}{suffix}"

    def _tags(self, meta: Metadata) -> list[str]:
        forced = (
            gotemplate.render(self.options.tags, self.container.raw)
            if self.options.tags
            else ""
        )
        return (
            split_tags(meta.get("tags"))
            + split_tags(forced)
            + (["udp"] if self.port.protocol == "udp" else [])
        )

    def _number(self) -> int:
        if self._meshed or self.options.internal or self.port.binding is None:
            return int(self.port.exposed)
        return int(self.port.binding.port or self.port.exposed)

    def _address(self) -> tuple[str, str]:
        """The address, and why there is none that may be used."""
        if self.container.joined and self.owner is not None:
            network = (
                self.owner.labels.get(contract.LABEL_NETWORK) or self.options.network
            )
            return self.owner.address(network), ""

        label = self.options.use_ip_from_label
        if label and (text := self.container.labels.get(label)):
            found = label_address(text)
            return (
                found,
                ""
                if found
                else f"label {label} does not hold an address that an endpoint may have",
            )

        if self.options.internal or self._meshed:
            return self.container.address(self.options.network), ""
        return self.options.ip or self._host_address(), ""

    def _host_address(self) -> str:
        # Empty makes Consul answer with its node's address, which is where the port is published.
        ip = self.port.binding.ip if self.port.binding else ""
        return self.options.host_address if ip in ("", "0.0.0.0", "::") else ip

    def _own_meta(self, name: str) -> dict[str, str]:
        own = {META_HOST: self.options.owner, META_CONTAINER: self.container.id[:12]}
        if self._meshed:
            source = self._pod or self.container
            service = self.container.labels.get(contract.LABEL_SERVICE, "")
            own |= {
                META_WORKLOAD: self.container.labels.get(contract.LABEL_WORKLOAD, ""),
                META_SERVICE: service,
                META_NAMESPACE: source.labels.get(contract.LABEL_NAMESPACE)
                or "default",
                META_ACCOUNT: source.account(name),
            }
        return {k: v for k, v in own.items() if v}


def image_name(image: str) -> str:
    """The last part of an image's name without tag and digest."""
    return image.rpartition("/")[2].split("@")[0].split(":")[0]
