r"""What a container says about its services: `SERVICE_*` of its environment and labels, and its
tags.

Source: registrator, `bridge/util.go`. Labels override the environment, `SERVICE_<port>_X` beats
`SERVICE_X`. Invariant: what comes out can be sent to Consul; the rest is dropped, each with a
reason.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dockermesh.model.contract import RESERVED_NAMES

PREFIX = "SERVICE_"
OWN_PREFIX = "dockermesh"
# Consul's agent/structs: ValidateServiceMetadata.
MAX_META_KEYS = 64
_MAX_META_KEY = 128
_MAX_META_VALUE = 512
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_MAX_NAME = 200
_ID = re.compile(r"[A-Za-z0-9_.:@+~-]{1,255}")
_MAX_TAG = 512


@dataclass(frozen=True, slots=True)
class Metadata:
    """Keys in lower case without prefix; `from_port` are those given for this port."""

    values: Mapping[str, str]
    from_port: frozenset[str]

    def get(self, key: str, default: str = "") -> str:
        """The value, or `default` when it is missing or empty."""
        return self.values.get(key) or default


def service_metadata(
    env: Iterable[str], labels: Mapping[str, str], port: str
) -> Metadata:
    """The `SERVICE_*` settings that hold for `port`."""
    values: dict[str, str] = {}
    for_port: dict[str, str] = {}
    pairs = [(k, v) for k, sep, v in (e.partition("=") for e in env) if sep]

    for name, value in (*pairs, *labels.items()):
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX).lower()
        # `SERVICE_80_NAME` is for port 80; `SERVICE_2ND` is a key like any other.
        number, _, rest = key.partition("_")
        if rest and re.fullmatch(r"[+-]?[0-9]+", number):
            if number == port:
                for_port[rest] = value
        else:
            values[key] = value

    return Metadata(values | for_port, frozenset(for_port))


def split_tags(text: str) -> list[str]:
    r"""The tags in a comma list; `\,` is a comma inside a tag."""
    parts = re.split(r"(?<!\\),", text)
    return [p.replace("\\,", ",") for p in parts if p]


def clean_tags(tags: Iterable[str]) -> tuple[list[str], list[str]]:
    """The tags without repetition and the reasons why others were dropped."""
    kept: list[str] = []
    reasons = []
    for tag in tags:
        if has_control(tag) or len(tag.encode()) > _MAX_TAG:
            reasons.append(
                f"tag {printable(tag)} has control characters or is longer than {_MAX_TAG} bytes"
            )
        elif tag not in kept:
            kept.append(tag)
    return kept, reasons


def clean_meta(
    values: Mapping[str, str], room: int
) -> tuple[dict[str, str], list[str]]:
    """At most `room` pairs that Consul accepts, and the reasons why others were dropped."""
    kept: dict[str, str] = {}
    reasons = []

    for key in sorted(values):
        value = values[key]
        if not _META_KEY.fullmatch(key) or len(key) > _MAX_META_KEY:
            reasons.append(f"meta key {printable(key)} is not of [A-Za-z0-9_-]")
        elif key.startswith(("consul-", OWN_PREFIX)):
            reasons.append(f"meta key {printable(key)} is reserved")
        elif len(value.encode()) > _MAX_META_VALUE:
            reasons.append(
                f"meta value of {printable(key)} is longer than {_MAX_META_VALUE} bytes"
            )
        elif len(kept) >= room:
            reasons.append(f"meta {printable(key)} is one too many for Consul")
        else:
            kept[key] = value

    return kept, reasons


def name_fault(name: str) -> str:
    """Why `name` cannot be a service name; empty when it can. It becomes part of host and cluster
    names.
    """
    if name.lower() in RESERVED_NAMES:
        return f"service name {name} is one of the mesh's own; give it another (SERVICE_NAME)"
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        return f"service name {printable(name)} is not a DNS name"
    return ""


def id_fault(service_id: str) -> str:
    """Why `service_id` cannot be used; empty when it can. It becomes part of URL paths."""
    if not _ID.fullmatch(service_id) or ".." in service_id:
        return f"service id {printable(service_id)} has characters outside [A-Za-z0-9_.:@+~-]"
    return ""


def label_address(text: str) -> str:
    """The address in a label, its mask stripped; empty when no endpoint may have it."""
    try:
        address = ipaddress.ip_address(text.rpartition("/")[0] or text)
    except ValueError:
        return ""
    bad = (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
    )
    return "" if bad else str(address)


def has_control(text: str) -> bool:
    """Whether it has characters that could forge a line."""
    return any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" for c in text)


def printable(text: str) -> str:
    """The text for a message: quoted, escaped and short."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
