"""A workload's part of a proxy that serves several, and what such a proxy needs of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dockermesh.client.compose.node import is_shared
from dockermesh.client.inspect.dump import Dump
from dockermesh.client.inspect.node_parts import part_of


def listener(name: str, table: str) -> dict[str, Any]:
    content = {"name": name, "rds": [{"route_config_name": table}]}
    return {"name": name, "active_state": {"listener": content}}


def test_it_has_its_own_listeners_and_the_route_tables_that_these_use() -> None:
    dump = Dump(
        {
            "ListenersConfigDump": {
                "dynamic_listeners": [
                    listener("virtualOutbound|shop/a-1", "one/80"),
                    listener("virtualOutbound|shop/aa-1", "two/80"),
                ],
                "static_listeners": [],
            },
            "RoutesConfigDump": {
                "dynamic_route_configs": [
                    {"route_config": {"name": name}} for name in ("one/80", "two/80")
                ]
            },
            "ClustersConfigDump": {
                "dynamic_active_clusters": [{"cluster": {"name": "c"}}]
            },
        }
    )
    part = part_of(dump, "shop/a-1")
    assert [item["name"] for item in part.dynamic_listeners()] == ["virtualOutbound"]
    assert part.dynamic_routes() == [{"name": "one/80"}]
    assert part.clusters() == [{"name": "c"}]
    assert len(dump.dynamic_listeners()) == 2, "the whole stays whole"


def test_a_shared_mount_is_told_from_a_private_one(tmp_path: Path) -> None:
    line = "1 0 0:1 / {} rw,relatime {}- tmpfs tmpfs rw"
    inner = tmp_path / "netns"
    inner.mkdir()
    root = line.format("/", "")
    assert is_shared(str(inner), root) is False
    assert is_shared(str(inner), line.format("/", "shared:1 ")) is True
    shared = line.format(tmp_path.resolve(), "shared:7 master:2 ")
    assert is_shared(str(inner), f"{root}\n{shared}") is True
    assert is_shared(str(tmp_path / "none"), shared) is None
