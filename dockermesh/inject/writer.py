"""The bytes of a meshed project: YAML, checked against the Compose specification.

Invariant: equal projects give equal bytes, and anchors are never used, so that every part can be read alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dockermesh.errors import DockermeshError
from dockermesh.inject.overlay import Override, Reset

HEADER = "# Written by `dockermesh inject`; edit the Compose file it was made from instead.\n"
_NEWER = frozenset({"gpus", "models", "provider", "post_start", "pre_stop", "use_api_socket"})
"""Keys of services that `docker compose` knows and `compose-spec` does not yet."""


class _Dumper(yaml.CSafeDumper):
    """Compose's tags, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _override(dumper: _Dumper, value: Override) -> yaml.Node:
    node = dumper.represent_data(value.value)
    node.tag = "!override"
    return node


_Dumper.add_representer(str, _string)
_Dumper.add_representer(Reset, lambda dumper, _: dumper.represent_scalar("!reset", "null"))
_Dumper.add_representer(Override, _override)


def to_yaml(project: Mapping[str, Any]) -> str:
    """`project` as YAML text."""
    body = yaml.dump(
        dict(project), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    return HEADER + body


def check(project: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Check `project` with compose-spec.

    What it also rejects in `source` is newer than it, and Compose, which loaded it, knows better. Anything else is a
    fault of ours: DockermeshError.
    """
    complaint = _complaint(project)
    if complaint and not _complaint(source):
        raise DockermeshError(
            f"the meshed project is not a valid Compose file: {complaint}",
            where="inject",
            fix="this is a bug of dockermesh: please report it with your Compose file",
        )


def _complaint(project: Mapping[str, Any]) -> str:
    from compose_spec import PyCompose

    services = {
        name: {key: value for key, value in service.items() if key not in _NEWER}
        for name, service in project["services"].items()
    }
    try:
        PyCompose.from_yaml(to_yaml({**project, "services": services})).validate()
    except ValueError as error:
        return str(error)
    return ""
