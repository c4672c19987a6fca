"""What the API serves: Istio's kinds and namespaces, by group, version and plural, with the columns
of their tables.

The columns are those of Istio's resource definitions, so that `kubectl get` prints what users know.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from dockermesh.config.kinds import KINDS, MESH_CONFIG, OWN, Kind


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `path` is where in the object its value is.

    Priority 0 is shown always, 1 in wide tables and by `dockermesh get`, 2 in wide tables alone.
    """

    name: str
    path: tuple[str, ...]
    description: str = ""
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """A kind as it is served."""

    kind: str
    plural: str
    group: str
    versions: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    namespaced: bool = True
    definition: Kind | None = None

    @property
    def singular(self) -> str:
        """The name in lower case."""
        return self.kind.lower()

    @property
    def prefix(self) -> str:
        """What the store's keys of this kind begin with."""
        return f"{self.group or 'core'}/{self.kind}/"

    def key(self, namespace: str, name: str) -> str:
        """The store's key of an object; one that is in no namespace is in the one of its own
        name.
        """
        return f"{self.prefix}{namespace if self.namespaced else name}/{name}"

    def api_version(self, version: str) -> str:
        """`networking.istio.io/v1`, or `v1` for the core group."""
        return f"{self.group}/{version}" if self.group else version


_COLUMNS: dict[str, tuple[Column, ...]] = {
    "RateLimit": (
        Column(
            "Shadow",
            ("spec", "shadow"),
            "Whether it counts only, and refuses nothing",
            type="boolean",
        ),
    ),
    "VirtualService": (
        Column(
            "Gateways",
            ("spec", "gateways"),
            "The names of gateways and sidecars that should apply these routes",
        ),
        Column(
            "Hosts",
            ("spec", "hosts"),
            "The destination hosts to which traffic is being sent",
        ),
    ),
    "DestinationRule": (
        Column(
            "Host", ("spec", "host"), "The name of a service from the service registry"
        ),
    ),
    "ServiceEntry": (
        Column(
            "Hosts", ("spec", "hosts"), "The hosts associated with the ServiceEntry"
        ),
        Column(
            "Location", ("spec", "location"), "Whether the service is part of the mesh"
        ),
        Column("Resolution", ("spec", "resolution"), "How the hosts are resolved"),
    ),
    "WorkloadEntry": (
        Column(
            "Address",
            ("spec", "address"),
            "Address associated with the network endpoint.",
        ),
    ),
    "WorkloadGroup": (),
    "PeerAuthentication": (
        Column(
            "Mode", ("spec", "mtls", "mode"), "Defines the mTLS mode used for peers."
        ),
    ),
    "AuthorizationPolicy": (
        Column("Action", ("spec", "action"), "The operation to take."),
    ),
}
_ACCEPTED = ("status", "conditions", "Accepted")
_PROGRAMMED = ("status", "conditions", "Programmed")
_CONDITIONS = (
    Column(
        "Accepted",
        (*_ACCEPTED, "status"),
        "Whether the mesh uses all of the resource",
        priority=1,
    ),
    Column(
        "Programmed",
        (*_PROGRAMMED, "status"),
        "Whether all proxies are up to date",
        priority=1,
    ),
    Column(
        "Why", (*_ACCEPTED, "message"), "What of the resource has no effect", priority=2
    ),
    Column(
        "Proxies",
        (*_PROGRAMMED, "message"),
        "How many proxies are up to date",
        priority=2,
    ),
)


def _served(kind: Kind) -> Served:
    categories = ["all"]
    # `kubectl get istio-io` lists all kinds of Istio.
    if kind.group != OWN:
        categories += ["istio-io", f"{kind.group.partition('.')[0]}-istio-io"]

    return Served(
        kind=kind.name,
        plural=kind.plural,
        group=kind.group,
        versions=tuple(sorted(kind.versions, key=_age)),
        short_names=kind.short_names,
        categories=tuple(categories),
        columns=(*_COLUMNS.get(kind.name, ()), *_CONDITIONS),
        definition=kind,
    )


def _age(version: str) -> int:
    # The order in which Kubernetes prefers versions: stable before beta before alpha.
    return ("v1", "v1beta1", "v1alpha3", "v1alpha1").index(version)


NAMESPACE = Served(
    kind="Namespace",
    plural="namespaces",
    group="",
    versions=("v1",),
    short_names=("ns",),
    columns=(Column("Status", ("status", "phase"), "The status of the namespace"),),
    namespaced=False,
)
SECRET = Served(
    kind="Secret",
    plural="secrets",
    group="",
    versions=("v1",),
    columns=(
        Column("Type", ("type",), "What the secret is for"),
        Column("Data", ("data",), "How many values it holds", type="integer"),
    ),
)
SERVED: tuple[Served, ...] = (
    NAMESPACE,
    SECRET,
    *(_served(kind) for kind in (*KINDS, MESH_CONFIG)),
)
_BY_PLURAL = {(s.group, s.plural): s for s in SERVED}
_BY_KEY = {s.prefix: s for s in SERVED}


def find(group: str, version: str, plural: str) -> Served | None:
    """The kind behind a path."""
    served = _BY_PLURAL.get((group, plural))
    return served if served is not None and version in served.versions else None


def of_key(key: str) -> Served | None:
    """The kind of a stored object."""
    group, kind = key.split("/", 2)[:2]
    return _BY_KEY.get(f"{group}/{kind}/")


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """The groups (without the core group) with all their versions, preferred first."""
    found: dict[str, set[str]] = {}
    for served in SERVED:
        if served.group:
            found.setdefault(served.group, set()).update(served.versions)
    return {
        group: tuple(sorted(versions, key=_age)) for group, versions in found.items()
    }


def in_version(group: str, version: str) -> tuple[Served, ...]:
    """All kinds of a group that have that version."""
    return tuple(s for s in SERVED if s.group == group and version in s.versions)


def named(word: str) -> Served | None:
    """A kind as users name it: `vs`, `virtualservice`, `VirtualServices`,
    `virtualservices.networking.istio.io`.
    """
    word = word.lower()
    for served in SERVED:
        names = (served.plural, served.singular, *served.short_names)
        versions = (f".{version}" for version in served.versions)
        suffixes = (
            "",
            f".{served.group}",
            *(f"{version}.{served.group}" for version in versions),
        )
        if any(word == name + suffix for name in names for suffix in suffixes):
            return served
    return None
