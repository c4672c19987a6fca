"""Grafana's boards as the package has them, and the script that makes them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "compose/telemetry/grafana/boards"
BOARDS: dict[str, dict[str, Any]] = {
    file.name: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))
}


def boards_script() -> ModuleType:
    """scripts/boards.py, which finds its own neighbour."""
    folder = str(ROOT / "scripts")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("boards")
    finally:
        sys.path.remove(folder)


def queries(board: dict[str, Any], values: dict[str, str]) -> dict[str, str]:
    """All that a board asks, by panel and letter, with the values of its variables."""
    found = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for name, value in values.items():
                text = text.replace(f"${name}", value)
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = text
    return found
