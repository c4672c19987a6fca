"""The file of a meshed project, and the check of it against the Compose specification.

Invariant: what the generator makes is valid Compose; if not, it is our fault and said so, before a
file is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dockermesh.errors import DockermeshError
from dockermesh.inject.emit import emit

HEADER = "# Written by `dockermesh inject`; edit the Compose file it was made from instead.\n"
_NEWER = frozenset(
    {"gpus", "models", "provider", "post_start", "pre_stop", "use_api_socket"}
)
"""Keys of services that `docker compose` knows and `compose-spec` does not yet."""


def to_yaml(project: Mapping[str, Any]) -> str:
    """The text of the file."""
    return HEADER + emit(project)


def check(project: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Check `project` with compose-spec.

    What it also rejects in `source` is newer than it, and Compose, which loaded it, knows better.
    Anything else is a fault of ours: DockermeshError.
    """
    complaint = _complaint(project)
    if complaint and not _complaint(source):
        raise DockermeshError(
            f"the meshed project is not a valid Compose file: {complaint}",
            where="inject",
            fix="this is a bug of dockermesh: please report it with your Compose file",
        )


def _networks(service: Mapping[str, Any]) -> dict[str, Any]:
    """The networks without aliases: compose-spec takes host names only, Docker also `my_db`."""
    networks = service.get("networks")
    if not isinstance(networks, Mapping):
        return {}
    return {
        "networks": {
            name: {key: value for key, value in attachment.items() if key != "aliases"}
            if attachment
            else attachment
            for name, attachment in networks.items()
        }
    }


def _complaint(project: Mapping[str, Any]) -> str:
    from compose_spec import PyCompose

    services = {
        name: {key: value for key, value in service.items() if key not in _NEWER}
        | _networks(service)
        for name, service in project["services"].items()
    }
    try:
        # JSON is parsed five times as fast as YAML, and means the same.
        PyCompose.from_json(json.dumps({**project, "services": services})).validate()
    except ValueError as error:
        return str(error)

    return ""
