"""AuthorizationPolicy: who may do what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from dockermesh.config.api.common import LabelSelector, PolicyTargetReference
from dockermesh.config.fields import REQUIRED, Length


class Action(StrEnum):
    """What happens to a request that matches."""

    # As soon as one policy allows, what none allows is denied.
    ALLOW = "ALLOW"
    # Asked before ALLOW.
    DENY = "DENY"
    # Decides nothing.
    AUDIT = "AUDIT"
    # An external authorizer decides, before all others.
    CUSTOM = "CUSTOM"


_Values = tuple[str, ...]
_Accounts = Annotated[tuple[Annotated[str, Length(high=320)], ...], Length(high=16)]


@dataclass(frozen=True, slots=True)
class Source:
    """Conditions on the peer; all fields must hold, of each one value."""

    # `cluster.local/ns/default/sa/web`, without `spiffe://`.
    principals: _Values = ()
    not_principals: _Values = ()
    request_principals: _Values = ()
    not_request_principals: _Values = ()
    namespaces: _Values = ()
    not_namespaces: _Values = ()
    service_accounts: _Accounts = ()
    not_service_accounts: _Accounts = ()
    # The peer of the connection; remote_ip_blocks are the client that proxies in between tell of.
    ip_blocks: _Values = ()
    not_ip_blocks: _Values = ()
    remote_ip_blocks: _Values = ()
    not_remote_ip_blocks: _Values = ()
    trust_domains: _Values = ()
    not_trust_domains: _Values = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """Conditions on the request; all fields must hold, of each one value."""

    hosts: _Values = ()
    not_hosts: _Values = ()
    ports: _Values = ()
    not_ports: _Values = ()
    methods: _Values = ()
    not_methods: _Values = ()
    paths: _Values = ()
    not_paths: _Values = ()


@dataclass(frozen=True, slots=True)
class From:
    """One source."""

    source: Source | None = None


@dataclass(frozen=True, slots=True)
class To:
    """One operation."""

    operation: Operation | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on an attribute."""

    key: str = field(default="", metadata=REQUIRED)
    values: _Values = ()
    not_values: _Values = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the sources, one of the operations, and all the conditions."""

    sources: Annotated[tuple[From, ...], Length(high=512)] = field(
        default=(), metadata={"json": "from"}
    )
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtensionProvider:
    """The external authorizer, by its name in the mesh settings."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class AuthorizationPolicy:
    """Rules for the selected workloads (None: all of the namespace); no rules match nothing."""

    ONEOFS: ClassVar = (("selector", "target_ref", "target_refs"),)
    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    rules: Annotated[tuple[Rule, ...], Length(high=512)] = ()
    action: Action = Action.ALLOW
    provider: ExtensionProvider | None = None
