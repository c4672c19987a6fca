"""Boards as Grafana reads them, from what each of their panels shows.

Invariant: the same board gives the same bytes. Rows of panels are filled from the left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SOURCE = {"type": "prometheus", "uid": "dockermesh-prometheus"}
COLUMNS = 24
_HEIGHTS = {"stat": 4, "timeseries": 8, "table": 9, "row": 1}


@dataclass(frozen=True)
class Panel:
    """`queries` are PromQL by legend; `about` says what one does not see by the title."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    about: str = ""


@dataclass(frozen=True)
class Variable:
    """A choice on top of a board: the values of a label of these series."""

    name: str
    label: str
    series: str


@dataclass(frozen=True)
class Board:
    """One board; its name is that of its file."""

    name: str
    title: str
    about: str
    panels: list[Panel]
    variables: list[Variable] = field(default_factory=list)


def queries(board: Board) -> Iterator[tuple[str, str]]:
    """Title and PromQL of everything that a board asks."""
    for panel in board.panels:
        for legend, query in panel.queries.items():
            yield f"{panel.title} {legend}".strip(), query


def document(board: Board) -> dict[str, Any]:
    """The board as Grafana reads it."""
    return {
        "uid": f"dockermesh-{board.name}",
        "title": board.title,
        "description": board.about,
        "tags": ["dockermesh"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [
            {
                "title": "dockermesh",
                "type": "dashboards",
                "tags": ["dockermesh"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": False,
            }
        ],
        "templating": {"list": [_variable(v) for v in board.variables]},
        "panels": list(_panels(board.panels)),
    }


def _variable(variable: Variable) -> dict[str, Any]:
    asked = f"label_values({variable.series}, {variable.label})"
    return {
        "name": variable.name,
        "label": variable.name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": asked, "refId": "values"},
        "definition": asked,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": False,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(panels: list[Panel]) -> Iterator[dict[str, Any]]:
    x = y = line = 0
    for identity, panel in enumerate(panels, 1):
        height = _HEIGHTS[panel.kind]
        if x + panel.width > COLUMNS or (x and height != line):
            x, y = 0, y + line
        place = {"x": x, "y": y, "w": panel.width, "h": height}
        x, line = x + panel.width, height
        yield {
            "id": identity,
            "title": panel.title,
            "type": panel.kind,
            "gridPos": place,
            **({"description": panel.about} if panel.about else {}),
            **(
                _content(panel) if panel.queries else {"collapsed": False, "panels": []}
            ),
        }


def _content(panel: Panel) -> dict[str, Any]:
    is_table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + n),
            "datasource": SOURCE,
            "expr": query,
            # A table joins its columns by their labels; its legends are the columns' names.
            **(
                {"instant": True, "format": "table"}
                if is_table
                else {"legendFormat": legend or "__auto"}
            ),
        }
        for n, (legend, query) in enumerate(panel.queries.items())
    ]
    made: dict[str, Any] = {
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }
    if panel.kind == "timeseries":
        made["options"] = {
            "legend": {"displayMode": "list"},
            "tooltip": {"mode": "multi"},
        }
        made["fieldConfig"]["defaults"]["custom"] = {
            "fillOpacity": 8,
            "showPoints": "never",
        }
        made["fieldConfig"]["defaults"]["min"] = 0
    elif panel.kind == "stat":
        made["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "graphMode": "area",
        }
    else:
        names = {
            f"Value #{t['refId']}": n
            for t, n in zip(targets, panel.queries, strict=True)
        }
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {"excludeByName": {"Time": True}, "renameByName": names},
            },
        ]
        made["fieldConfig"]["overrides"] = [
            {
                "matcher": {"id": "byName", "options": "success"},
                "properties": [{"id": "unit", "value": "percentunit"}],
            }
        ]
    return made


def text(board: Board) -> str:
    """The content of a board's file."""
    return json.dumps(document(board), indent=1) + "\n"
