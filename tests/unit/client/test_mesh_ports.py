"""Where the mesh's own ports go: an app's win, and what the mesh has it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from dockermesh.client.compose.host_ports import (
    HostPorts,
    check_ports,
    listeners,
    wanted_ports,
)
from dockermesh.client.compose.mesh_ports import Choice, choose_ports
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.inject.options import InjectOptions
from dockermesh.inject.project import inject_project

CONSUL, PLANE = "dockermesh-consul", "dockermesh-control-plane"
ALL = {CONSUL, PLANE}
USUAL = {
    "CONSUL_PORT": "8500",
    "DOCKERMESH_API_PORT": "8080",
    "DOCKERMESH_DEBUG_PORT": "15014",
    "DOCKER_GATEWAY": "172.28.0.1:",
}


class Engine:
    """An engine elsewhere, with these containers: name to what each publishes."""

    url = "tcp://elsewhere:2375"

    def __init__(self, **containers: Iterable[str]) -> None:
        self.names = {n.replace("_", "-"): list(p) for n, p in containers.items()}
        self.stopped: set[str] = set()

    def has_image(self, _: str) -> bool:
        return False

    def containers(self, labels: Iterable[str] = ()) -> list[dict[str, Any]]:
        wanted = [label.partition("=")[2] for label in labels]
        return [
            {
                "Names": [f"/{name}"],
                "Labels": {"com.docker.compose.project": self.project(name)},
                "Ports": [
                    {"IP": ip, "PublicPort": int(number), "Type": kind}
                    for ip, number, _, kind in map(self.parts, ports)
                ],
            }
            for name, ports in self.names.items()
            if name not in self.stopped and wanted in ([], [self.project(name)])
        ]

    def inspect(self, name: str) -> dict[str, Any] | None:
        if name not in self.names:
            return None
        bindings: dict[str, list[dict[str, str]]] = {}
        for ip, number, inside, kind in map(self.parts, self.names[name]):
            bindings[f"{inside}/{kind}"] = [{"HostIp": ip, "HostPort": number}]
        state = {"Running": name not in self.stopped}
        return {"State": state, "HostConfig": {"PortBindings": bindings}}

    @staticmethod
    def project(name: str) -> str:
        return name.partition("-")[0]

    @staticmethod
    def parts(text: str) -> tuple[str, str, str, str]:
        """`IP:NUMBER:INSIDE/KIND`."""
        ip, number, inside = text.split(":")
        return ip, number, inside.partition("/")[0], inside.partition("/")[2] or "tcp"


def running(api: int = 8080, consul: int = 8500, dns: str = "172.28.0.1:53") -> Engine:
    return Engine(
        dockermesh_consul=[f"127.0.0.1:{consul}:8500", f"{dns}:8600/udp"],
        dockermesh_control_plane=[f"127.0.0.1:{api}:8080", "127.0.0.1:15014:15014"],
    )


def project(*ports: str, **more: Any) -> dict[str, Any]:
    """A project that publishes these, as `NUMBER:TARGET/KIND`."""
    definitions = [
        {
            "mode": "ingress",
            "published": port.split(":")[0],
            "target": int(port.split(":")[1].partition("/")[0]),
            "protocol": port.partition("/")[2] or "tcp",
        }
        for port in ports
    ]
    return {"name": "shop", "services": {"web": {"image": "i", "ports": definitions}}}


def up(engine: Engine, *ports: str, containers: set[str] = ALL, **env: str) -> Choice:
    local = cast(LocalEngine, engine)
    host = HostPorts(local)
    wanted = wanted_ports(inject_project(project(*ports), InjectOptions()))
    check_ports(host, "shop", wanted)
    return choose_ports(local, host, wanted, env, containers, "172.28.0.1")


def test_the_usual_ports_where_they_are_free() -> None:
    assert up(Engine()) == Choice(USUAL)
    assert up(running(), "8000:80") == Choice(USUAL)
    assert up(Engine(), containers={PLANE}).settings.keys() == {
        "DOCKERMESH_API_PORT",
        "DOCKERMESH_DEBUG_PORT",
    }


@pytest.mark.parametrize("engine", [Engine(), running()])
def test_the_apps_ports_win(engine: Engine) -> None:
    found = up(engine, "8080:80", "8081:81", "8500:82", "15014:83", "53:53/udp")
    assert found.settings == {
        "CONSUL_PORT": "8501",
        "DOCKERMESH_API_PORT": "8082",
        "DOCKERMESH_DEBUG_PORT": "15015",
        "DOCKER_GATEWAY": "127.0.0.1:100",
    }
    assert "the config API on port 8082 of 127.0.0.1 (8080: web publishes it)" in (
        found.notes
    )
    assert "Consul's DNS on 127.0.0.1:10053" in found.notes


def test_a_range_of_the_app_is_left_to_it() -> None:
    assert up(Engine(), "8080-8083:80").settings["DOCKERMESH_API_PORT"] == "8084"


def test_what_the_mesh_has_it_keeps() -> None:
    engine = running(api=8082, dns="127.0.0.1:10053")
    found = up(engine)
    assert found.settings["DOCKERMESH_API_PORT"] == "8082"
    assert found.settings["DOCKER_GATEWAY"] == "127.0.0.1:100"
    engine.stopped = {PLANE, CONSUL}
    assert up(engine).settings == found.settings


def test_a_spare_port_for_dns_is_looked_at_though_the_mesh_has_another_there() -> None:
    engine = running(dns="127.0.0.1:10053")
    engine.names["other-1"] = ["0.0.0.0:53:53/udp", "0.0.0.0:10153:53/udp"]
    assert up(engine, "10053:53/udp").settings["DOCKER_GATEWAY"] == "127.0.0.1:102"


def test_a_stopped_mesh_whose_port_was_given_away_takes_another() -> None:
    engine = running(api=8082)
    engine.names["other-1"] = ["0.0.0.0:8082:80", "0.0.0.0:8080:80"]
    engine.stopped = {PLANE}
    assert up(engine).settings["DOCKERMESH_API_PORT"] == "8081"


def test_somebody_elses_ports_are_left_to_them() -> None:
    engine = Engine(other_1=["0.0.0.0:8080:80", "0.0.0.0:15014:1", "0.0.0.0:53:53/udp"])
    found = up(engine)
    assert found.settings["DOCKERMESH_API_PORT"] == "8081"
    assert found.settings["DOCKERMESH_DEBUG_PORT"] == "15015"
    assert found.settings["DOCKER_GATEWAY"] == "127.0.0.1:100"
    assert any("container other-1 publishes it" in note for note in found.notes)


def test_a_port_that_is_named_is_taken_or_refused() -> None:
    assert (
        up(running(), DOCKERMESH_API_PORT="9999").settings["DOCKERMESH_API_PORT"]
        == "9999"
    )
    engine = Engine(other_1=["0.0.0.0:9999:80"])
    with pytest.raises(InputError, match="9999 is taken") as raised:
        up(engine, DOCKERMESH_API_PORT="9999")
    assert raised.value.where == "DOCKERMESH_API_PORT"
    with pytest.raises(InputError, match="web publishes it"):
        up(running(), "8080:80", DOCKERMESH_API_PORT="8080")
    # The other two do not move to where it is.
    found = up(Engine(), "8080:80", DOCKERMESH_DEBUG_PORT="8081")
    assert found.settings["DOCKERMESH_API_PORT"] == "8082"


@pytest.mark.parametrize(
    ("port", "fix"),
    [
        ("8000:80", "--gateway-port 8000:PORT"),
        ("9081:80", "--gateway-port 9081:PORT"),
        ("7000:80/udp", "another number"),
    ],
)
def test_an_apps_port_that_somebody_has_is_refused(port: str, fix: str) -> None:
    held = ["0.0.0.0:8000:1", "0.0.0.0:30080:1", "0.0.0.0:7000:1/udp"]
    with pytest.raises(InputError, match="container other-1 publishes it") as raised:
        up(Engine(other_1=held), port)
    assert fix in raised.value.fix
    assert raised.value.where == "published port of web"


def test_its_own_and_those_of_the_other_protocol_do_not_bar_it() -> None:
    up(Engine(shop_1=["0.0.0.0:8000:1"]), "8000:80")
    up(Engine(other_1=["0.0.0.0:8000:1/udp"]), "8000:80")


def test_the_kernels_list_of_datagram_sockets() -> None:
    line = " 1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 0 0 0 1\n"
    (found,) = listeners("header\n" + line, "udp")
    assert (found.address, found.port, found.protocol) == ("0.0.0.0", 53, "udp")
    assert found.bars("172.28.0.1", 53, "udp") and not found.bars("", 53)
