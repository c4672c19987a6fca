"""Options of the registrar, with registrator's names; read from flags in JSON, whose names are
taken in any style.

Invariant: an `Options` is complete and checked, so that the mapping that takes it needs no
environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dockermesh.errors import InputError
from dockermesh.model.contract import MESH_NETWORK

# registrator's words.
_DEREGISTER = ("always", "on-success")


@dataclass(frozen=True, slots=True)
class Options:
    """How containers become services.

    `hostname` is the first part of service ids, `host` the owner written into Meta (empty: the
    hostname), `host_address` what the hostname resolves to, `network` the mesh network whose
    addresses are preferred. `run_checks`: the registrar asks declared HTTP, TCP and gRPC checks
    itself, for a registry that cannot. `for_mesh`: containers outside of the mesh count only where
    its network reaches them, and are called as in their Compose file.
    """

    hostname: str = ""
    host: str = ""
    host_address: str = ""
    ip: str = ""
    internal: bool = False
    explicit: bool = False
    tags: str = ""
    use_ip_from_label: str = ""
    ttl: int = 0
    ttl_refresh: int = 0
    deregister: str = "always"
    network: str = MESH_NETWORK
    run_checks: bool = False
    for_mesh: bool = False

    def __post_init__(self) -> None:
        if bool(self.ttl) != bool(self.ttl_refresh):
            raise InputError(
                "-ttl and -ttl-refresh must be given together or not at all",
                fix="give both or neither",
            )
        if self.ttl and self.ttl <= self.ttl_refresh:
            raise InputError("-ttl must be greater than -ttl-refresh", fix="raise -ttl")
        if self.deregister not in _DEREGISTER:
            raise InputError(
                f"unknown -deregister {self.deregister!r}",
                fix=f"use one of {', '.join(_DEREGISTER)}",
            )

    @property
    def owner(self) -> str:
        """The host name under which entries are owned."""
        return self.host or self.hostname

    @property
    def needs_host_address(self) -> bool:
        """Whether published ports are announced at the host's own address, which has to be looked
        up.
        """
        return not self.internal and not self.ip


# Other spellings: registrator's Go field names, and its flag names without punctuation.
_ALIASES = {
    "hostip": "ip",
    "forcetags": "tags",
    "refreshttl": "ttl",
    "refreshinterval": "ttlrefresh",
}
_ALIASES |= {"deregistercheck": "deregister", "meshnetwork": "network"}
_KNOWN = {f.name.replace("_", ""): f.name for f in fields(Options)}


def parse_flags(flags: Mapping[str, Any]) -> tuple[Options, tuple[str, ...]]:
    """The options in `flags`, and the names that mean nothing to the mapping (`-resync`,
    `-cleanup`, typing errors).

    Raises InputError when a value has the wrong type or the options contradict each other.
    """
    found: dict[str, Any] = {}
    ignored = []

    for name, value in flags.items():
        plain = "".join(c for c in name.lower() if c.isalnum())
        field_name = _KNOWN.get(_ALIASES.get(plain, plain))
        if field_name is None:
            ignored.append(name)
        elif value is not None:
            found[field_name] = _convert(name, value, field_name)

    return Options(**found), tuple(ignored)


_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "false": False,
    "0": False,
    "no": False,
    "": False,
}
_BOOL_FIELDS = frozenset({"internal", "explicit", "run_checks", "for_mesh"})
_INT_FIELDS = frozenset({"ttl", "ttl_refresh"})


def _convert(name: str, value: Any, field_name: str) -> str | int | bool:
    try:
        if field_name in _BOOL_FIELDS:
            return _BOOLEANS[str(value).strip().lower()]
        if field_name in _INT_FIELDS:
            return int(value)
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"flag {name!r} cannot be {value!r}", fix="see dockermesh registrar --help"
        ) from None
    if isinstance(value, list):
        return ",".join(str(v) for v in value)
    return str(value)
