"""Why a container of the mesh ended: the error that it printed, which is of the form that every
command of ours prints.
"""

from __future__ import annotations

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import DockermeshError, EngineError

_LINES = 40
_ERROR, _FIX = "Error: ", "  -> "


def last_error(engine: LocalEngine, container: str) -> DockermeshError | None:
    """The last error in a container's log; None if there is none, or no log can be read."""
    try:
        return find_error(engine.logs(container, _LINES))
    except EngineError:
        return None


def find_error(log: str) -> DockermeshError | None:
    """The last error in a log, if nothing came after it: what ran on has got over it."""
    lines = [line for line in log.splitlines() if line.strip()]
    begun = [n for n, line in enumerate(lines) if line.startswith(_ERROR)]
    if not begun:
        return None

    what, *rest = lines[begun[-1] :]
    if any(not line.startswith(" ") for line in rest):
        return None
    fix = next((line.removeprefix(_FIX) for line in rest if line.startswith(_FIX)), "")
    return DockermeshError(what.removeprefix(_ERROR), fix=fix)
