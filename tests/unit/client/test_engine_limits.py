"""What doctor says of an engine's kind."""

from __future__ import annotations

import pytest

from dockermesh.client.compose.engine_limits import limits_of
from dockermesh.docker.address import EngineAddress

LOCAL = EngineAddress("unix:///var/run/docker.sock")


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        (
            {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]},
            "rootless",
        ),
        ({"OperatingSystem": "Docker Desktop"}, "Docker Desktop"),
        ({"SecurityOptions": ["name=userns"]}, "userns-remap"),
    ],
)
def test_each_kind_of_engine_has_its_limits_with_a_remedy(
    info: dict[str, object], kind: str
) -> None:
    found = limits_of(info, LOCAL)
    assert {limit.kind for limit in found} == {kind}
    assert all(limit.what and limit.fix for limit in found)


def test_an_ordinary_engine_has_none_and_one_of_another_host_its_paths() -> None:
    info = {
        "OperatingSystem": "Debian GNU/Linux 12",
        "SecurityOptions": ["name=seccomp"],
    }
    assert limits_of(info, LOCAL) == ()
    assert [limit.kind for limit in limits_of(info, EngineAddress("ssh://vm"))] == [
        "another host"
    ]
