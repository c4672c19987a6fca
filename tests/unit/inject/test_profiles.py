"""Services of profiles that are not enabled: they stay in the file, and in nobody's way."""

from __future__ import annotations

from typing import Any

from inject_projects import mesh, port, service

from dockermesh.client.compose.bind_mounts import mounted_paths
from dockermesh.client.compose.waiting import expected_workloads
from dockermesh.inject.options import InjectOptions
from dockermesh.inject.profiles import with_decided_profiles

INACTIVE = frozenset({"debug", "other"})


def optional(*names: str) -> dict[str, Any]:
    condition = {"condition": "service_started", "required": False}
    return {name: dict(condition) for name in names}


def shop(**services: Any) -> dict[str, Any]:
    return {
        "web": service(ports=[port(80, "8001")], depends_on=optional("debug")),
        "debug": service(ports=[port(80, "8002")], profiles=["debug"]),
        "other": service(ports=[port(80, "8002")], profiles=["other"]),
        "tools": service(profiles=["tools"]),
        **services,
    }


def test_an_optional_dependency_that_is_not_in_the_file_is_left_out() -> None:
    made = mesh({"web": service(depends_on=optional("debug"))}).project["services"]
    assert "debug" not in made["web"]["depends_on"]
    host = service(depends_on=optional("debug"), network_mode="host")
    assert "depends_on" not in mesh({"web": host}).project["services"]["web"]


def test_an_optional_dependency_of_another_profile_stays() -> None:
    made = mesh(shop(), InjectOptions(inactive=INACTIVE)).project["services"]
    assert made["web"]["depends_on"]["debug"]["required"] is False


def test_inactive_services_keep_their_profile_in_all_that_is_made_of_them() -> None:
    side = service(network_mode="service:debug", profiles=["debug"])
    made = mesh(shop(side=side), InjectOptions(inactive=INACTIVE)).project["services"]
    for name in ("debug", "debug-1-pod", "debug-1-proxy", "side"):
        assert made[name]["profiles"] == ["debug"]


def test_two_profiles_may_publish_one_port_and_neither_is_at_the_gateway() -> None:
    injection = mesh(shop(), InjectOptions(inactive=INACTIVE))
    assert [mapping.service for mapping in injection.ports] == ["web"]
    made = injection.project["services"]
    assert [p["published"] for p in made["debug-1-pod"]["ports"]] == ["8002"]


def test_up_starts_what_is_active_and_waits_for_nothing_else() -> None:
    decided = with_decided_profiles({"services": shop()}, INACTIVE)["services"]
    assert "profiles" not in decided["tools"]
    assert decided["debug"]["profiles"] == ["debug"]
    injection = mesh(decided, InjectOptions(inactive=INACTIVE))
    assert expected_workloads(injection) == {
        "shop/web-1",
        "shop/tools-1",
        "shop/gateway-1",
    }


def test_paths_of_what_is_not_started_are_not_looked_for() -> None:
    volumes = [{"type": "bind", "source": "/nowhere", "target": "/x"}]
    project = {"services": {"debug": service(profiles=["debug"], volumes=volumes)}}
    assert list(mounted_paths(project)) == []
    del project["services"]["debug"]["profiles"]
    assert [path.path for path in mounted_paths(project)] == ["/nowhere"]
