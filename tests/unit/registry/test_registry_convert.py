"""Consul's entries to services: what is taken over, what is left out (S12)."""

from typing import Any

import pytest

from dockermesh.model import Endpoint, Health, Port, Protocol
from dockermesh.registry.accept import accepted_names, address_problem, quoted
from dockermesh.registry.consul.convert import build_service, convert_entries


def entry(
    sid: str = "web-1",
    address: str = "10.0.0.1",
    port: Any = 9080,
    *,
    node: Any = None,
    checks: Any = (),
    **service: Any,
) -> dict[str, Any]:
    return {
        "Node": node
        or {"Node": "n1", "Address": "10.9.9.9", "Datacenter": "dc1", "Meta": None},
        "Service": (
            {
                "ID": sid,
                "Service": "web",
                "Address": address,
                "Port": port,
                "Tags": [],
                "Meta": None,
            }
            | service
        ),
        "Checks": list(checks),
    }


def only_endpoint(*args: Any, **kwargs: Any) -> Endpoint:
    (instance,) = convert_entries([entry(*args, **kwargs)]).instances
    return instance.endpoint


def only_protocol(**kwargs: Any) -> Protocol:
    (instance,) = convert_entries([entry(**kwargs)]).instances
    return instance.protocol


def test_meshed_endpoint() -> None:
    meta = {
        "dockermesh-host": "host-a",
        "dockermesh-workload": "bookinfo/reviews-v1-1",
        "dockermesh-namespace": "prod",
        "dockermesh-service-account": "reviews",
        "dockermesh-container": "abc",
        "team": "blue",
        "version": "meta",
    }
    endpoint = only_endpoint(
        Meta=meta,
        Tags=["version|v1", "track=canary", "plain"],
        Weights={"Passing": 7, "Warning": 2},
    )
    assert dict(endpoint.labels) == {"team": "blue", "version": "v1", "track": "canary"}
    assert endpoint.workload == "bookinfo/reviews-v1-1"
    assert (endpoint.namespace, endpoint.service_account) == ("prod", "reviews")
    assert (endpoint.locality, endpoint.weight, endpoint.health) == (
        "dc1/host-a/",
        7,
        Health.HEALTHY,
    )


@pytest.mark.parametrize(
    ("meta", "account"),
    [
        ({"account": "bookinfo-details"}, "bookinfo-details"),
        ({"account": "b", "dockermesh-service-account": "a.b"}, "a.b"),
        ({"account": "a/../b"}, ""),
        ({}, ""),
    ],
)
def test_the_account_is_what_the_registrar_found_or_registrators_metadata(
    meta: dict[str, str], account: str
) -> None:
    assert only_endpoint(Meta=meta).service_account == account


def test_the_nodes_address_serves_where_the_service_has_none() -> None:
    endpoint = only_endpoint(address="")
    assert (endpoint.address, endpoint.locality, endpoint.workload) == (
        "10.9.9.9",
        "dc1/n1/",
        "",
    )


@pytest.mark.parametrize(
    ("checks", "health"),
    [
        ([], Health.HEALTHY),
        (
            [
                {"CheckID": "serfHealth", "Status": "passing"},
                {"CheckID": "c", "Status": "warning"},
            ],
            Health.HEALTHY,
        ),
        ([{"CheckID": "serfHealth", "Status": "critical"}], Health.UNHEALTHY),
        (
            [
                {"CheckID": "c", "Status": "critical"},
                {"CheckID": "d", "Status": "warning"},
            ],
            Health.UNHEALTHY,
        ),
        (
            [{"CheckID": "_service_maintenance:web-1", "Status": "critical"}],
            Health.DRAINING,
        ),
        (
            [
                {"CheckID": "_node_maintenance", "Status": "critical"},
                {"CheckID": "c", "Status": "critical"},
            ],
            Health.DRAINING,
        ),
    ],
)
def test_health(checks: list[dict[str, str]], health: Health) -> None:
    assert only_endpoint(checks=checks).health is health


def test_warning_has_its_own_weight() -> None:
    warning = [{"CheckID": "c", "Status": "warning"}]
    assert (
        only_endpoint(checks=warning, Weights={"Passing": 10, "Warning": 3}).weight == 3
    )
    assert (
        only_endpoint(checks=warning, Weights={"Passing": 10, "Warning": 0}).health
        is Health.DRAINING
    )


@pytest.mark.parametrize(
    ("given", "protocol"),
    [
        ({"Meta": {"protocol": "http"}}, Protocol.HTTP),
        ({"Meta": {"SERVICE_PROTOCOL": "grpc"}}, Protocol.GRPC),
        ({"Meta": {"protocol": "tcp", "9080_protocol": "http2"}}, Protocol.HTTP2),
        ({"Tags": ["protocol|http"]}, Protocol.HTTP),
        ({"Tags": ["protocol=grpc"]}, Protocol.GRPC),
        ({"Meta": {"port_name": "http-web"}}, Protocol.HTTP),
        ({"Meta": {"protocol": "nonsense"}}, Protocol.AUTO),
        ({"Tags": ["udp"]}, Protocol.UDP),
        ({"port": 5432}, Protocol.TCP),
        ({}, Protocol.AUTO),
    ],
)
def test_protocol(given: dict[str, Any], protocol: Protocol) -> None:
    assert only_protocol(**given) is protocol


def test_service_is_in_order_and_keeps_what_did_not_change() -> None:
    entries = [
        entry("b", "10.0.0.2", 9444),
        entry("c", "10.0.0.1"),
        entry("a", "10.0.0.1", Meta={"protocol": "http"}),
    ]
    first = build_service(
        "Web", convert_entries(entries).instances, domain="service.consul"
    )
    assert first.hostname == "web.service.consul"
    assert first.ports == (Port(9080, Protocol.HTTP), Port(9444, Protocol.AUTO))
    assert [e.id for e in first.endpoints] == ["a", "c", "b"]
    assert (
        build_service(
            "Web",
            convert_entries(entries[::-1]).instances,
            domain="service.consul",
            previous=first,
        )
        is first
    )
    changed = [
        *entries[:2],
        entry("a", "10.0.0.1", Meta={"protocol": "http"}, Tags=["version|v2"]),
    ]
    second = build_service(
        "Web",
        convert_entries(changed).instances,
        domain="service.consul",
        previous=first,
    )
    assert second is not first
    assert second.endpoints[1] is first.endpoints[1]


def test_a_datagram_twin_does_not_get_connections() -> None:
    entries = [entry("dns-tcp", port=53), entry("dns-udp", port=53, Tags=["udp"])]
    service = build_service(
        "dns", convert_entries(entries).instances, domain="service.consul"
    )
    assert service.ports == (Port(53, Protocol.TCP),)
    assert [e.id for e in service.endpoints] == ["dns-tcp"]


@pytest.mark.parametrize(
    "hostile",
    [
        "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost", "169.254.169.254", "fe80::1",
        "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "2130706433", "127.1", "10.0.0.256", "a b", "a\nb", "../x",
        "http://x", "a..b", "x" * 300, "fe80::1%eth0",
    ],
)  # fmt: skip
def test_hostile_addresses_are_skipped_with_a_reason(hostile: str) -> None:
    converted = convert_entries([entry(address=hostile), entry("ok")])
    assert [i.endpoint.id for i in converted.instances] == ["ok"]
    (reason,) = converted.skipped
    assert "\n" not in reason
    assert len(reason) < 250


@pytest.mark.parametrize(
    "name", ["db.example.com", "db", "my_host.internal", "db.example.com."]
)
def test_a_host_name_is_skipped_as_envoy_would_refuse_all_endpoints_for_it(
    name: str,
) -> None:
    assert "ServiceEntry" in address_problem(name, allow_loopback=False)


@pytest.mark.parametrize("good", ["10.1.2.3", "fd00::5"])
def test_good_addresses(good: str) -> None:
    assert address_problem(good, allow_loopback=False) == ""


@pytest.mark.parametrize(
    "host", ["db.example.com", "db", "my_host.internal", "db.example.com."]
)
def test_host_names_are_no_endpoints_but_the_reason_says_what_is(host: str) -> None:
    assert "ServiceEntry" in address_problem(host, allow_loopback=False)


def test_loopback_on_request() -> None:
    assert (
        len(
            convert_entries([entry(address="127.0.0.1")], allow_loopback=True).instances
        )
        == 1
    )
    assert not convert_entries(
        [entry(address="169.254.169.254")], allow_loopback=True
    ).instances


def test_names() -> None:
    hostile = [
        "a|b",
        "a/b",
        "../x",
        "a\nb",
        "ü",
        "x" * 64,
        "x" * 300,
        "google.com",
        "",
        "-a",
        "a b",
        "control-plane",
        "Dockermesh-Consul",
    ]
    accepted, skipped = accepted_names(["consul", "web", "My_Svc-2", "Web", *hostile])
    assert accepted == ["My_Svc-2", "web"]
    assert set(skipped) == {*hostile, "Web"}


def test_quoted_names_stay_on_one_line() -> None:
    assert "\n" not in quoted("a\nlevel=error forged")
    assert len(quoted("x" * 3000)) < 90


@pytest.mark.parametrize(
    "broken",
    [
        None, 3, "x", [], {}, {"Service": None}, {"Service": {"ID": 7}}, entry(port=0), entry(port=None),
        entry(port="80"),
        entry(port=70000), entry(sid=""), {"Node": [], "Service": {"ID": "x", "Port": 1}},
    ],
)  # fmt: skip
def test_broken_entries_are_skipped(broken: Any) -> None:
    converted = convert_entries([broken])
    assert converted.instances == ()
    assert len(converted.skipped) == 1


def test_broken_details_do_no_harm() -> None:
    endpoint = only_endpoint(
        Tags=[3, "|x", "=y", "a|b|c", "l|os.execute('x')", "n|a\nb"],
        Meta={
            "k": 3,
            "dockermesh-namespace": "a/b",
            "dockermesh-workload": "../../etc",
            "dockermesh-service": "../x",
        },
        checks=[None, "x"],
        Weights="heavy",
    )
    assert dict(endpoint.labels) == {"a": "b|c", "l": "os.execute('x')"}
    assert (endpoint.namespace, endpoint.workload, endpoint.weight) == (
        "default",
        "",
        1,
    )
