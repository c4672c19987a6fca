"""Which names, addresses and labels of a registry may enter the mesh. Pure.

Anyone who can register a service chooses these texts, and they end up in cluster names, host names,
paths and log lines. So each is accepted only in a form that cannot mean anything else; what is not
gets a reason instead. A service's name becomes a host name of its own (`reviews`), hence no dots:
`google.com` or `reviews.default.svc.cluster.local` would take over somebody else's name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from dockermesh.model.contract import RESERVED_NAMES
from dockermesh.model.service import SERVICE_NAME

OWN_SERVICE = "consul"
"""Consul registers its servers under this name; they are no part of the mesh."""

_HOST = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_HOST_FIX = (
    "a host name, not an IP address; a ServiceEntry with `resolution: DNS` can name it"
)
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_WORKLOAD = re.compile(r"[A-Za-z0-9._/-]{1,253}")


def name_problem(name: str) -> str:
    """Why this service name cannot be used; empty when it can."""
    if name.lower() in RESERVED_NAMES:
        return "the name is one of the mesh's own; give it another (SERVICE_NAME)"
    if SERVICE_NAME.fullmatch(name):
        return ""
    if len(name.encode("utf-8", "replace")) > 63:
        return "the name is longer than 63 bytes"
    return (
        "the name may hold letters, digits, '-' and '_' only, and must begin and end with a letter"
        " or digit"
    )


def accepted_names(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The names to follow in order, and the others with the reason why not.

    Host names know no case: of `Web` and `web` only one can exist, and the lower-case one is it.
    """
    taken: dict[str, str] = {}
    skipped: dict[str, str] = {}

    for name in sorted(names, key=lambda n: (n != n.lower(), n)):
        if name == OWN_SERVICE:
            continue
        problem = name_problem(name)
        if not problem and name.lower() in taken:
            other = taken[name.lower()]
            problem = f"differs from the service {other!r} in upper and lower case only"
        if problem:
            skipped[name] = problem
        else:
            taken[name.lower()] = name

    return sorted(taken.values()), skipped


def address_problem(address: str, *, allow_loopback: bool) -> str:
    """Why traffic must not be sent to this address; empty when it may."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        # Envoy takes addresses only, and refuses all endpoints of a push for the sake of one name.
        is_host = _HOST.fullmatch(address.rstrip("."))
        return _HOST_FIX if is_host else "neither an IP address nor a host name"

    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    ip = mapped or ip
    # What an address is said to be, in the order in which it is asked.
    refusals = (
        (
            ip.is_loopback and not allow_loopback,
            "a loopback address means another machine to each proxy",
        ),
        (ip.is_link_local, "a link-local address may be the cloud's metadata service"),
        (_is_of_many(ip), "not the address of one machine"),
        ("%" in address, "an address with a zone means another machine elsewhere"),
    )

    return next((reason for is_so, reason in refusals if is_so), "")


def _is_of_many(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_unspecified or ip.is_multicast or ip == _BROADCAST


def plain_label(key: str, value: str) -> bool:
    """Whether a label can be shown and compared: printable and not endless."""
    return (
        bool(key)
        and len(key) <= 255
        and len(value) <= 1024
        and key.isprintable()
        and value.isprintable()
    )


def plain_name(text: str, default: str) -> str:
    """A namespace, or `default` where the text is not one."""
    return text if SERVICE_NAME.fullmatch(text) else default


def plain_workload(text: str) -> str:
    """A workload's name, or nothing."""
    return text if _WORKLOAD.fullmatch(text) and ".." not in text else ""


def quoted(text: str) -> str:
    """A foreign text for a log line: one line, no control characters, not longer than a name
    needs.
    """
    return ascii(text if len(text) <= 80 else text[:77] + "...")
