"""Which namespaces the agent cares for, and how workloads on other networks are reached."""

from __future__ import annotations

from types import MappingProxyType

from dockermesh.nodeagent.places import Place, network_of, places
from dockermesh.registrar.container import Container, State

RAW = {"NetworkSettings": {"SandboxKey": "/var/run/docker/netns/ab12"}}

OF_HOST = {"NetworkSettings": {"SandboxKey": "/var/run/docker/netns/default"}}


def container(networks: dict[str, str], **more: object) -> Container:
    fields: dict[str, object] = {
        "labels": {"dockermesh.io/workload": "shop/web-1"},
        "networks": networks,
        "state": State(running=True, started=7),
        "is_node_mode": True,
        "raw": MappingProxyType(RAW),
    }
    return Container("c" * 64, "shop-web-1", **{**fields, **more})  # type: ignore[arg-type]


def test_only_who_runs_in_node_mode_has_a_place() -> None:
    found = places([container({"front": "10.1.0.2"})], [], "dockermesh")
    assert found == {"/run/netns/ab12": Place("/run/netns/ab12", "shop/web-1", 7)}
    for other in (
        container({}, is_node_mode=False),
        container({}, state=State()),
        container({}, raw={}),
        container({}, raw=OF_HOST),
    ):
        assert places([other], [], "dockermesh") == {}


def test_who_is_called_on_a_network_that_is_not_shared_is_reached_on_one_that_is() -> (
    None
):
    own = container({"front": "10.1.0.2"})
    pod = {"dockermesh": "172.28.0.9", "front": "10.1.0.3"}
    several = {"back": "10.2.0.4", "front": "10.1.0.4"}
    found = places([own], [pod, several], "dockermesh")["/run/netns/ab12"].detours
    assert dict(found) == {"172.28.0.9": "10.1.0.3", "10.2.0.4": "10.1.0.4"}


def test_networks_that_docker_separates_stay_so() -> None:
    own = container({"front": "10.1.0.2"})
    apart = {"back": "10.2.0.4", "dockermesh": "172.28.0.9"}
    away = {"back": "10.2.0.5", "front": ""}
    alike = {"front": "10.1.0.6", "zoo": "10.3.0.6"}
    for other in (apart, away, alike):
        found = places([own], [other], "dockermesh")
        assert not found["/run/netns/ab12"].detours


def test_the_network_of_an_address_is_the_one_that_has_a_place_for_it() -> None:
    subnets = {"a": ["10.1.0.0/16", "fd00::/64"], "b": ["10.2.0.0/16"], "c": []}
    assert network_of("10.2.3.4", subnets) == "b"
    assert network_of("10.1.3.4", subnets) == "a"
    assert network_of("10.9.3.4", subnets) == network_of("", subnets) == ""
