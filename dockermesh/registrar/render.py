"""What `dockermesh registrar render` prints: registrations for inspected containers, without Docker
and Consul.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from typing import Any

from dockermesh.errors import InputError
from dockermesh.registrar.container import parse_container
from dockermesh.registrar.mapping import map_container
from dockermesh.registrar.options import parse_flags


def resolve(hostname: str) -> str:
    """The address of a host name; empty when there is none, which makes Consul use its node's."""
    try:
        return socket.gethostbyname(hostname) if hostname else ""
    except OSError:
        return ""


def render_registrations(
    inspected: Any, flags: Any, resolver: Callable[[str], str] = resolve
) -> tuple[list[dict[str, Any]], list[str]]:
    """Registration bodies of the containers in `inspected` (an object or a list), and notes on what
    was left out.

    Raises InputError when either argument is not of its documented form.
    """
    objects = inspected if isinstance(inspected, list) else [inspected]
    _check(objects, flags)
    options, unknown = parse_flags(flags)
    if options.needs_host_address:
        options = dataclasses.replace(options, host_address=resolver(options.hostname))

    containers = [parse_container(o) for o in objects]
    by_id = {c.id: c for c in containers}
    bodies: list[dict[str, Any]] = []
    notes = [f"flag {name} does not change the mapping" for name in unknown]

    for container in containers:
        registrations, skipped = map_container(
            container, by_id.get(container.joined), options
        )
        bodies += [r.body() for r in registrations]
        notes += [f"{s.container}: {s.reason}" for s in skipped]

    return bodies, notes


def _check(objects: list[Any], flags: Any) -> None:
    if not all(isinstance(o, dict) for o in objects):
        raise InputError(
            "not an object of docker inspect",
            where="--inspect",
            fix="give docker inspect's output",
        )
    if not isinstance(flags, dict):
        raise InputError(
            "not a JSON object",
            where="--flags",
            fix='give an object like {"internal": true}',
        )
