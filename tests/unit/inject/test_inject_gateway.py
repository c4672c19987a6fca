"""Published ports: what the gateway takes over, under which numbers, and the Istio resources for
it.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from inject_projects import mesh, port, service

from dockermesh.errors import InputError
from dockermesh.inject.options import Injection, InjectOptions


def numbers(injection: Injection) -> list[tuple[str, int, int]]:
    return [
        (mapping.service, mapping.host_port, mapping.gateway_port)
        for mapping in injection.ports
    ]


def published(injection: Injection) -> list[tuple[str, int]]:
    pod = injection.project["services"].get("gateway-pod", {})
    return [(item["published"], item["target"]) for item in pod.get("ports", [])]


def config(injection: Injection) -> list[dict[str, Any]]:
    text = injection.project["services"]["gateway-pod"]["labels"].get(
        "dockermesh.io/config", ""
    )
    return list(yaml.safe_load_all(text.replace("$$", "$"))) if text else []


def options(*ports: str, resources: tuple[dict[str, Any], ...] = ()) -> InjectOptions:
    return InjectOptions(gateway_ports=ports, config=resources)


def istio_gateway(
    *servers: tuple[int, str], selector: dict[str, str] | None = None
) -> tuple[dict[str, Any], ...]:
    gateway = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "g"},
        "spec": {
            "selector": {"istio": "ingressgateway"} if selector is None else selector,
            "servers": [
                {
                    "port": {"number": n, "name": p.lower(), "protocol": p},
                    "hosts": ["*"],
                }
                for n, p in servers
            ],
        },
    }
    virtual = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "v"},
        "spec": {"hosts": ["*"], "gateways": ["g"]},
    }
    return gateway, virtual


def test_first_http_port_becomes_30080_and_others_keep_theirs() -> None:
    injection = mesh(
        {
            "cache": service(ports=[port(6379, "6379")]),
            "web": service(
                ports=[port(8080, "8000", host_ip="127.0.0.1"), port(8081, "8001")]
            ),
        }
    )
    assert numbers(injection) == [
        ("cache", 6379, 6379),
        ("web", 30080, 80),
        ("web", 8001, 8001),
    ]
    assert published(injection) == [
        ("6379", 6379),
        ("30080", 80),
        ("8001", 8001),
        ("30443", 443),
    ]
    assert [mapping.protocol for mapping in injection.ports] == ["tcp", "http", "http"]
    assert (
        injection.project["services"]["gateway-pod"]["ports"][1]["host_ip"]
        == "127.0.0.1"
    )
    assert all(
        "ports" not in injection.project["services"][name]
        for name in ("cache", "cache-1-pod", "web-1-pod")
    )


def test_declared_protocols_win() -> None:
    services = {
        "a": service(ports=[port(8080, "1")], environment={"SERVICE_PROTOCOL": "tcp"}),
        "b": service(ports=[port(5432, "2")], labels={"SERVICE_5432_PROTOCOL": "http"}),
        "c": service(ports=[port(9999, "3", name="grpc-api")]),
        "d": service(ports=[port(9998, "4", app_protocol="tcp")]),
    }
    assert [mapping.protocol for mapping in mesh(services).ports] == [
        "tcp",
        "http",
        "http",
        "tcp",
    ]


@pytest.mark.parametrize("spec", ["9081:31000", "web:31000", "web:9080:31000"])
def test_gateway_port_by_number_and_by_service(spec: str) -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "web": service(ports=[port(9080, "9081")]),
    }
    injection = mesh(services, options(spec))
    assert numbers(injection) == [("a", 8080, 8080), ("web", 31000, 80)]


def test_gateway_port_in_the_file_and_the_command_line_before_it() -> None:
    services = {"web": service(ports=[port(9080, "9081")])}
    extension = {"x-dockermesh": {"gateway": {"ports": ["9081:31000"]}}}
    assert numbers(mesh(services, **extension)) == [("web", 31000, 80)]
    assert numbers(mesh(services, options("9081:32000"), **extension)) == [
        ("web", 32000, 80)
    ]


@pytest.mark.parametrize(
    "spec",
    [
        "nosuch:30080",
        "1234:30080",
        "web:1:30080",
        "9081",
        "9081:0",
        "9081:x",
        "9081:99999",
    ],
)
def test_wrong_gateway_port_names_the_valid_ones(spec: str) -> None:
    with pytest.raises(InputError) as raised:
        mesh({"web": service(ports=[port(9080, "9081")])}, options(spec))
    assert raised.value.where == "--gateway-port"
    assert "9081" in raised.value.fix


def test_two_mappings_to_one_host_port_are_refused() -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "b": service(ports=[port(80, "8081")]),
    }
    with pytest.raises(InputError, match="30080"):
        mesh(services, options("8080:30080", "8081:30080"))


def test_whoever_publishes_30080_already_is_the_entry() -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "b": service(ports=[port(80, "30080")]),
    }
    assert numbers(mesh(services)) == [("a", 8080, 8080), ("b", 30080, 80)]


def test_one_number_at_two_addresses_gets_two_listeners() -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "b": service(ports=[port(80, "9000", host_ip="127.0.0.1")]),
        "c": service(ports=[port(80, "9000", host_ip="127.0.0.2")]),
    }
    listeners = [mapping.gateway_port for mapping in mesh(services).ports]
    assert len(set(listeners)) == 3


def test_a_listener_never_takes_a_port_of_the_proxy() -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "b": service(ports=[port(80, "15021")]),
    }
    assert mesh(services).ports[1].gateway_port != 15021
    assert mesh(services).ports[1].host_port == 15021


@pytest.mark.parametrize(
    "stays",
    [
        port(53, "53", protocol="udp"),
        port(80, "8000-8010"),
        port(80, ""),
        {"target": 80},
    ],
)
def test_what_the_gateway_cannot_serve_stays_on_the_pod(stays: dict[str, Any]) -> None:
    injection = mesh({"web": service(ports=[stays])})
    assert injection.project["services"]["web-1-pod"]["ports"] == [stays]
    assert "gateway-pod" not in injection.project["services"]
    assert [notice.service for notice in injection.notices] == ["web"]


def test_no_gateway_without_need() -> None:
    assert not any(
        "gateway" in name for name in mesh({"web": service()}).project["services"]
    )


def test_generated_resources_route_to_the_mesh_name() -> None:
    services = {
        "page-v1": service(
            ports=[port(9080, "9081")],
            environment={"SERVICE_NAME": "page"},
            expose=["9080"],
        )
    }
    injection = mesh(services)
    gateway, virtual = config(injection)
    labels = injection.project["services"]["gateway-pod"]["labels"]
    assert gateway["spec"]["selector"].items() <= labels.items()
    assert gateway["spec"]["servers"][0]["port"] == {
        "number": 80,
        "name": "http-80",
        "protocol": "HTTP",
    }
    assert virtual["spec"]["gateways"] == [gateway["metadata"]["name"]]
    assert virtual["spec"]["http"][0]["route"][0]["destination"] == {
        "host": "page",
        "port": {"number": 9080},
    }


def test_with_several_ports_composes_name_stands_for_all() -> None:
    services = {
        "page-v1": service(
            ports=[port(9080, "9081")],
            environment={"SERVICE_NAME": "page"},
            expose=["9443"],
        )
    }
    assert (
        config(mesh(services))[1]["spec"]["http"][0]["route"][0]["destination"]["host"]
        == "page-v1"
    )
    services["page-v1"]["environment"]["SERVICE_9080_NAME"] = "web"
    assert (
        config(mesh(services))[1]["spec"]["http"][0]["route"][0]["destination"]["host"]
        == "web"
    )


def test_tcp_ports_get_a_tcp_server_and_route() -> None:
    gateway, virtual = config(mesh({"db": service(ports=[port(5432, "5433")])}))
    assert gateway["spec"]["servers"][0]["port"]["protocol"] == "TCP"
    assert virtual["spec"]["tcp"][0]["match"] == [{"port": 5433}]


def test_resources_of_two_projects_do_not_meet() -> None:
    services = {"web": service(ports=[port(80, "80")])}
    first, second = (config(mesh(services, name=name))[0] for name in ("one", "two"))
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["spec"]["selector"] != second["spec"]["selector"]


@pytest.mark.parametrize("number", [80, 8080])
def test_the_users_own_gateway_is_enough(number: int) -> None:
    services = {"web": service(ports=[port(9080, "9081")])}
    injection = mesh(services, options(resources=istio_gateway((number, "HTTP"))))
    assert published(injection) == [("30080", number), ("30443", 443)]
    assert config(injection) == []
    assert not injection.ports[0].generated


def test_https_of_the_user_is_published() -> None:
    services = {"web": service(ports=[port(9080, "9081")])}
    injection = mesh(
        services, options(resources=istio_gateway((443, "HTTPS"), (31400, "TCP")))
    )
    assert published(injection) == [("30080", 80), ("30443", 443), ("31400", 31400)]
    assert len(config(injection)) == 2


def test_a_gateway_without_virtual_service_or_for_others_does_not_count() -> None:
    services = {"web": service(ports=[port(9080, "9081")])}
    for resources in (
        istio_gateway((80, "HTTP"))[:1],
        istio_gateway((80, "HTTP"), selector={"istio": "egress"}),
    ):
        assert len(config(mesh(services, options(resources=resources)))) == 2


def test_a_gateway_only_for_the_users_config() -> None:
    injection = mesh({"web": service()}, options(resources=istio_gateway((80, "HTTP"))))
    assert published(injection) == [("30080", 80), ("30443", 443)]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        [],
        {"servers": 1},
        {"servers": [None, {"port": 80}, {"port": {"number": "x"}}]},
    ],
)
def test_a_malformed_gateway_is_left_to_validation(spec: Any) -> None:
    gateway, virtual = istio_gateway()
    resources = (
        {**gateway, "spec": spec},
        virtual,
        {"kind": "VirtualService", "metadata": [], "spec": {"gateways": 1}},
    )
    injection = mesh(
        {"web": service(ports=[port(9080, "9081")])}, options(resources=resources)
    )
    assert published(injection) == [("30080", 80), ("30443", 443)]


def test_the_gateway_is_not_redirected_and_may_listen_on_80() -> None:
    pod = mesh({"web": service(ports=[port(9080, "9081")])}).project["services"][
        "gateway-pod"
    ]
    assert pod["environment"]["DOCKERMESH_CAPTURE"] == "none"
    assert pod["environment"]["DOCKERMESH_HOLD_PORTS"] == "80"
    assert pod["sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "0"}
    assert pod["networks"] == {"dockermesh": None}


def test_a_service_called_gateway_keeps_its_workload_name() -> None:
    made = mesh({"gateway": service(ports=[port(80, "80")])}).project["services"]
    workloads = {item["labels"]["dockermesh.io/workload"] for item in made.values()}
    assert workloads == {"shop/gateway-1", "shop/dockermesh-gateway-1"}


def test_the_door_for_tls_stands_beside_the_entry_only() -> None:
    web = {"web": service(ports=[port(9080, "9081", host_ip="127.0.0.1")])}
    ports = mesh(web).project["services"]["gateway-pod"]["ports"]
    assert [(item["published"], item["host_ip"]) for item in ports] == [
        ("30080", "127.0.0.1"),
        ("30443", "127.0.0.1"),
    ]
    assert published(mesh(web, options("9081:30084"))) == [("30084", 80)]
    taken = {"web": service(ports=[port(9080, "9081"), port(9090, "30443")])}
    assert published(mesh(taken)) == [("30080", 80), ("30443", 30443)]
    assert (
        mesh(web).project["services"]["gateway-pod"]["environment"][
            "DOCKERMESH_HOLD_PORTS"
        ]
        == "80"
    )


@pytest.mark.parametrize("in_file", [True, False])
def test_an_egress_gateway_is_made_when_asked_for(in_file: bool) -> None:
    top = {"x-dockermesh": {"egressGateway": True}} if in_file else {}
    services = mesh(
        {"web": service()}, InjectOptions(egress_gateway=not in_file), **top
    ).project["services"]
    pod, proxy = (
        services["istio-egressgateway-pod"],
        services["istio-egressgateway-proxy"],
    )
    labels = pod["labels"]
    assert (labels["istio"], labels["dockermesh.io/kind"]) == (
        "egressgateway",
        "router",
    )
    assert labels["dockermesh.io/namespace"] == "istio-system"
    assert (
        labels["dockermesh.io/service-account"] == "istio-egressgateway-service-account"
    )
    assert labels["dockermesh.io/workload"] == "shop/istio-egressgateway-1"
    assert "ports" not in pod
    assert proxy["network_mode"] == "service:istio-egressgateway-pod"
    assert "istio-egressgateway-pod" not in mesh({"web": service()}).project["services"]
