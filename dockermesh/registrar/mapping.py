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
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from dockermesh.model import contract
from dockermesh.model.contract import (
    META_ACCOUNT,
    META_CONTAINER,
    META_HASH,
    META_HOST,
    META_ID_OF,
    META_NAMESPACE,
    META_PROTOCOL,
    META_SERVICE,
    META_WORKLOAD,
)
from dockermesh.model.protocol import Protocol, parse_protocol
from dockermesh.model.protocol_selection import (
    ProtocolRule,
    Selection,
    select_protocol,
)
from dockermesh.model.service import NO_LABELS
from dockermesh.model.setup import NO_TTL
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
    timeout_of,
)
from dockermesh.registrar.container import Container
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
from dockermesh.registrar.served_ports import ExposedPort, is_meshed, served_ports


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

    def giving_way(self, holder: str) -> Registration:
        """The registration under its own id, with who has the one that it asked for."""
        told = {META_ID_OF: f"{self.id} {holder}"}
        meta = MappingProxyType({**self.meta, **told})
        return replace(self, id=self.own_id, meta=meta)

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
        return self.selection.protocol

    @property
    def selection(self) -> Selection:
        """What is spoken on the port, and what told so."""
        if "udp" in self.tags:
            return Selection(Protocol.UDP, ProtocolRule.DECLARED)

        told = select_protocol(declared=self.meta.get("protocol", ""), number=self.port)
        by_image = parse_protocol(self.meta.get(META_PROTOCOL, ""))
        if by_image is None or told.rule is ProtocolRule.DECLARED:
            return told.in_mesh
        rule = ProtocolRule.SNIFFED if by_image is Protocol.AUTO else ProtocolRule.IMAGE
        return Selection(by_image, rule)

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


def map_container(
    container: Container, owner: Container | None, options: Options
) -> tuple[tuple[Registration, ...], tuple[MappingFinding, ...]]:
    """The registrations of a running container; `owner` is the container whose network it joined,
    if it did.
    """
    if reason := _excluded(container):
        return (), (MappingFinding(container.name, reason),)

    ports = served_ports(container, owner, options)
    if not ports:
        return (), (MappingFinding(container.name, "no ports exposed or published"),)

    found: dict[str, Registration] = {}
    skipped: list[str] = []
    warnings: list[str] = []

    for port in ports:
        made = _Mapper(container, owner, options, port, len(ports) > 1).map()
        skipped += made.reasons
        warnings += made.warnings
        if made.registration is None:
            continue
        # The first one keeps the id, as with registrator: to Consul the second would replace it.
        if (
            found.setdefault(made.registration.id, made.registration)
            is not made.registration
        ):
            skipped.append(f"service id {made.registration.id} is used by two ports")

    return tuple(found.values()), (
        *(MappingFinding(container.name, reason) for reason in skipped),
        *(MappingFinding(container.name, text, is_warning=True) for text in warnings),
    )


def _excluded(container: Container) -> str:
    if container.role and container.role != "app":
        return f"part of the mesh itself ({container.role})"
    if container.labels.get(contract.COMPOSE_ONE_OFF, "").lower() == "true":
        return "started by `docker compose run`"
    return ""


@dataclass(frozen=True, slots=True)
class _Mapped:
    registration: Registration | None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Mapper:
    """Maps one port of a container."""

    container: Container
    owner: Container | None
    options: Options
    port: ExposedPort
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
        # Room for our own, for the hash and for the holder of an id that is not to be had: Consul
        # refuses the whole with one key too many.
        kept, bad_meta = clean_meta(rest, MAX_META_KEYS - len(own) - 2)
        number = self._number()
        check = declared_check(
            meta, Target(address, number, self.port.exposed, self.container.id)
        )
        is_ours = self.options.run_checks
        lost: tuple[str, ...] = ()
        if is_ours and check is not None and not can_be_asked(check):
            check, lost = None, (f"SERVICE_CHECK_TTL {NO_TTL}",)
        elif is_ours and check is not None:
            check = {**check, **timeout_of(meta)}

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

        return _Mapped(registration, (*bad_tags, *bad_meta), lost)

    @property
    def _pod(self) -> Container | None:
        return (
            self.owner if self.owner is not None and self.owner.role == "pod" else None
        )

    @property
    def _meshed(self) -> bool:
        return is_meshed(self.container, self.owner)

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
            name = default or self._outside_name()
        return (
            f"{name}-{self.port.exposed}"
            if self.is_group and "name" not in meta.from_port
            else name
        )

    def _outside_name(self) -> str:
        """What a container outside of the mesh is called where nobody says it."""
        compose = self.container.labels.get(contract.COMPOSE_SERVICE, "")
        if compose and (self.options.for_mesh or self.container.has_nameless_image):
            return compose
        if self.container.has_nameless_image:
            return self.container.name
        return image_name(self.container.image)

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
        if not self._meshed and self.options.for_mesh and not self._is_reachable():
            return "", (
                f"it is outside of the mesh, and not on its network {self.options.network}"
            )

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

    def _is_reachable(self) -> bool:
        """Whether every proxy of the mesh has a way to it: networks of Docker's are apart."""
        there = self.owner if self.container.joined else self.container
        label = self.options.use_ip_from_label
        if label and label in self.container.labels:
            return True
        return there is not None and bool(there.networks.get(self.options.network))

    def _host_address(self) -> str:
        # Empty makes Consul answer with its node's address, which is where the port is published.
        ip = self.port.binding.ip if self.port.binding else ""
        return self.options.host_address if ip in ("", "0.0.0.0", "::") else ip

    def _own_meta(self, name: str) -> dict[str, str]:
        own = {
            META_HOST: self.options.owner,
            META_CONTAINER: self.container.id[:12],
            META_PROTOCOL: self._usual_protocol(),
        }
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

    def _usual_protocol(self) -> str:
        """What the image speaks on the port, unless the number that is registered says the same."""
        if self.port.protocol == "udp":
            return ""
        image = self.container.image
        usual = select_protocol(image=image, number=int(self.port.exposed)).in_mesh
        by_number = select_protocol(number=self._number()).in_mesh
        return "" if usual.protocol is by_number.protocol else usual.protocol.value


def image_name(image: str) -> str:
    """The last part of an image's name without tag and digest."""
    return image.rpartition("/")[2].split("@")[0].split(":")[0]
