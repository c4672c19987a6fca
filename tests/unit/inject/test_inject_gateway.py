"""Published ports: what the gateway takes over, under which numbers, and the Istio resources for
it.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from inject_projects import mesh, port, service

from dockermesh.client.compose.gateway_urls import gateway_urls, titled_urls
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


def test_published_ports_keep_their_number() -> None:
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
        ("web", 8000, 80),
        ("web", 8001, 8001),
    ]
    assert published(injection) == [("6379", 6379), ("8000", 80), ("8001", 8001)]
    assert [mapping.protocol for mapping in injection.ports] == ["tcp", "http", "http"]
    assert (
        injection.project["services"]["gateway-pod"]["ports"][1]["host_ip"]
        == "127.0.0.1"
    )
    assert all(
        "ports" not in injection.project["services"][name]
        for name in ("cache", "cache-1-pod", "web-1-pod")
    )


def test_9081_alone_becomes_30080() -> None:
    services = {
        "api": service(ports=[port(8080, "9080")]),
        "web": service(ports=[port(9080, "9081"), port(9443, "9443")]),
    }
    injection = mesh(services)
    assert numbers(injection) == [
        ("api", 9080, 9080),
        ("web", 30080, 80),
        ("web", 9443, 9443),
    ]
    assert published(injection) == [("9080", 9080), ("30080", 80), ("9443", 9443)]


def test_9081_stays_where_30080_is_given_to_another() -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "b": service(ports=[port(80, "9081")]),
    }
    assert numbers(mesh(services, options("8080:30080"))) == [
        ("a", 30080, 80),
        ("b", 9081, 9081),
    ]
    assert numbers(mesh(services, options("443:30080")))[1][1] == 9081
    services["a"] = service(ports=[port(80, "30080")])
    assert numbers(mesh(services)) == [("a", 30080, 80), ("b", 9081, 9081)]


@pytest.mark.parametrize("table", [["none"], ["none", "8080:8081"], []])
def test_the_table_can_be_emptied(table: list[str]) -> None:
    services = {
        "a": service(ports=[port(80, "8080")]),
        "b": service(ports=[port(80, "9081")]),
    }
    extension = {"x-dockermesh": {"gateway": {"ports": table}}}
    moved = 8081 if len(table) > 1 else 8080
    assert [m.host_port for m in mesh(services, **extension).ports] == [moved, 9081]
    assert [m.host_port for m in mesh(services, options(*table or ["none"])).ports] == [
        moved,
        9081,
    ]
    # The command line's `none` is for the file's table, too.
    extension["x-dockermesh"]["gateway"]["ports"] = ["8080:8099"]
    assert mesh(services, options("none"), **extension).ports[0].host_port == 8080


def test_pages_are_the_way_in_before_what_nobody_declared_and_grpc() -> None:
    web = service(ports=[port(80, "8080")], environment={"SERVICE_PROTOCOL": "http"})
    services = {
        "a": service(ports=[port(50051, "50051", name="grpc")]),
        "b": service(ports=[port(10025, "10025")]),
        "c": web,
    }
    assert numbers(mesh(services))[2] == ("c", 8080, 80)
    del services["c"]
    assert numbers(mesh(services))[1] == ("b", 10025, 80)


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


def test_what_is_only_assumed_is_said_with_the_way_out() -> None:
    injection = mesh({"web": service(ports=[port(9999, "8443")])})
    assert injection.ports[0].protocol == "http"
    assert [str(notice) for notice in injection.notices] == [
        "web: port 8443:9999 assumed http; if not: SERVICE_9999_PROTOCOL=tls (or tcp) in"
        " its environment or labels"
    ]


@pytest.mark.parametrize(
    ("image", "target", "protocol"),
    [
        ("web", 8443, "tcp"),
        ("web", 2222, "tcp"),
        ("web", 1025, "tcp"),
        ("web", 8080, "http"),
        ("mysql:8", 3399, "tcp"),
        ("maildev/maildev", 1080, "http"),
        ("nats", 4333, "tcp"),
        ("elasticsearch:7.17", 9200, "http"),
    ],
)
def test_what_image_or_number_tell_needs_no_word(
    image: str, target: int, protocol: str
) -> None:
    services = {"web": service(ports=[port(target, "9000")]) | {"image": image}}
    injection = mesh(services)
    assert injection.ports[0].protocol == protocol
    assert not injection.notices


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
    assert published(injection) == [("30080", number)]
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
    assert published(injection) == [("30080", 80)]


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
    assert published(injection) == [("30080", 80)]


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


def test_a_port_for_tls_is_opened_where_it_is_asked_for() -> None:
    web = {"web": service(ports=[port(9080, "9081")])}
    assert published(mesh(web)) == [("30080", 80)]
    # Its VirtualService may come later.
    alone = istio_gateway((443, "HTTPS"))[:1]
    injection = mesh(web, options(resources=alone))
    assert published(injection) == [("30080", 80), ("30443", 443)]
    assert len(config(injection)) == 2
    injection = mesh(web, options("443:8443", resources=alone))
    assert published(injection) == [("30080", 80), ("8443", 443)]
    assert published(mesh(web, options("443:30443"))) == [
        ("30080", 80),
        ("30443", 443),
    ]
    assert published(mesh({"web": service()}, options("80:8088"))) == [("8088", 80)]


def test_an_opened_port_and_a_published_one_cannot_share_a_number() -> None:
    web = {"web": service(ports=[port(9080, "9081")])}
    with pytest.raises(InputError, match="host port 30080 is wanted by port 443"):
        mesh(web, options("9081:30080", "443:30080"))


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


def test_each_replica_has_a_port_whose_number_docker_chooses() -> None:
    web = service(
        ports=[port(80, "8000-8010"), {"target": 81}, port(53, "53", protocol="udp")],
        deploy={"replicas": 3},
    )
    injection = mesh({"web": web})
    pods = [injection.project["services"][f"web-{n}-pod"] for n in (1, 2, 3)]
    assert [len(pod["ports"]) for pod in pods] == [3, 2, 2]
    told = [notice.text for notice in injection.notices]
    assert [text.endswith("only one replica can have it") for text in told] == [
        False,
        False,
        True,
    ]


def test_ports_are_told_by_their_scheme_and_by_number_where_there_are_several() -> None:
    services = {
        "mail": service(ports=[port(25, "2525")]),
        "rpc": service(ports=[port(50051, "50051", name="grpc")]),
        "web": service(ports=[port(80, "8000", host_ip="::1"), port(443, "8443")]),
    }
    ports = mesh(services).ports
    urls = gateway_urls(ports, "there")
    assert titled_urls(ports, urls) == [
        ("mail", "there:2525"),
        ("rpc", "there:50051"),
        ("web:80", "http://localhost:8000"),
        ("web:443", "https://there:8443"),
    ]
    own = istio_gateway((443, "HTTPS"))
    both = {"a": service(ports=[port(80, "80")]), "b": service(ports=[port(80, "443")])}
    ports = mesh(both, options(resources=own)).ports
    assert gateway_urls(ports, "there") == [
        ("a", "http://there:80"),
        ("b", "https://there:443"),
    ]
