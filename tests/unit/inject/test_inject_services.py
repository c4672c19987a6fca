"""What becomes of services: pods, proxies, apps, those that follow and those that are left out."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from inject_projects import mesh, port, service

from dockermesh.config.documents import read_text
from dockermesh.errors import InputError
from dockermesh.inject.options import InjectOptions
from dockermesh.inject.project import inject_project
from dockermesh.inject.writer import check


def test_network_moves_to_the_pod_and_the_rest_stays() -> None:
    moved = {
        "hostname": "h",
        "domainname": "d",
        "dns": ["8.8.8.8"],
        "dns_search": ["service.consul"],
        "dns_opt": ["ndots:1"],
        "extra_hosts": ["a=1.2.3.4"],
        "mac_address": "02:42:ac:11:65:43",
    }
    kept = {
        "volumes": [{"type": "volume", "source": "v", "target": "/v"}],
        "healthcheck": {"test": ["CMD", "x"]},
        "x-a": {"b": 1},
    }
    made = mesh(
        {"web": service(**moved, **kept, expose=["80"], ports=[port(80, "8000")])}
    ).project["services"]
    app, pod = made["web"], made["web-1-pod"]
    assert {key: pod[key] for key in moved} == moved
    assert not app.keys() & {*moved, "networks", "ports", "expose"}
    assert {key: app[key] for key in kept} == kept
    assert (
        app["network_mode"]
        == made["web-1-proxy"]["network_mode"]
        == "service:web-1-pod"
    )
    assert pod["expose"] == ["80"]
    assert pod["networks"] == {
        "default": {"aliases": ["web", "shop-web-1"]},
        "dockermesh": None,
    }


def test_app_waits_for_its_pod_and_loses_its_proxy_last() -> None:
    app = mesh({"web": service()}).project["services"]["web"]
    assert app["depends_on"]["web-1-pod"] == {
        "condition": "service_healthy",
        "required": True,
        "restart": True,
    }
    assert "web-1-proxy" in app["depends_on"]


def test_net_sysctls_move_and_others_stay() -> None:
    made = mesh(
        {"web": service(sysctls={"net.core.somaxconn": "1", "kernel.msgmax": "2"})}
    ).project["services"]
    assert made["web-1-pod"]["sysctls"] == {"net.core.somaxconn": "1"}
    assert made["web"]["sysctls"] == {"kernel.msgmax": "2"}


def test_dockers_dns_still_knows_every_name() -> None:
    definition = service(
        container_name="front", networks={"default": {"aliases": ["www", "web"]}}
    )
    made = mesh({"web": definition}).project["services"]
    assert made["web-1-pod"]["networks"]["default"]["aliases"] == [
        "web",
        "front",
        "www",
    ]
    assert made["web"]["container_name"] == "front"


def test_replicas_become_services() -> None:
    made = mesh(
        {
            "web": service(
                deploy={"replicas": 3, "resources": {}}, build={"context": "/w"}
            )
        }
    ).project["services"]
    made_names = {
        f"web-{n}{part}" for n in (1, 2, 3) for part in ("", "-pod", "-proxy")
    }
    assert set(made) == made_names
    assert {made[f"web-{n}"]["image"] for n in (1, 2, 3)} == {"busybox"}
    assert made["web-2"]["deploy"] == {"resources": {}}
    for n in (1, 2, 3):
        assert made[f"web-{n}-pod"]["networks"]["default"]["aliases"] == [
            "web",
            f"shop-web-{n}",
        ]
        assert "dockermesh.io/aliases" not in made[f"web-{n}-pod"]["labels"], (
            "a replica's name is no service's"
        )


def test_built_replicas_share_the_image_that_compose_would_name() -> None:
    definition = {"build": {"context": "/w"}, "scale": 2, "networks": {"default": None}}
    made = mesh({"web": definition}).project["services"]
    assert made["web-1"]["image"] == made["web-2"]["image"] == "shop-web"
    assert "scale" not in made["web-1"]


def test_dependencies_on_replicas_name_them_all_and_keep_the_condition() -> None:
    condition = {"condition": "service_healthy", "required": False}
    made = mesh(
        {
            "web": service(scale=2),
            "plain": service(depends_on={"web": condition}, network_mode="none"),
        }
    ).project
    assert made["services"]["plain"]["depends_on"] == {
        "web-1": condition,
        "web-2": condition,
    }


def test_links_become_links_between_pods() -> None:
    injection = mesh({"db": service(scale=2), "web": service(links=["db:database"])})
    assert injection.project["services"]["web-1-pod"]["links"] == [
        "db-1-pod:database",
        "db-2-pod:database",
    ]
    assert "links" not in injection.project["services"]["web"]
    assert any("database" in notice.text for notice in injection.notices)


def test_shared_namespaces_and_volumes_follow_the_first_replica() -> None:
    made = mesh(
        {
            "db": service(scale=2),
            "web": service(pid="service:db", volumes_from=["db:ro"]),
        }
    ).project["services"]
    assert made["web"]["pid"] == "service:db-1"
    assert made["web"]["volumes_from"] == ["db-1:ro"]


@pytest.mark.parametrize("mode", ["host", "none", "container:abc", "bridge"])
def test_services_without_a_network_of_their_own_are_left_out_and_named(
    mode: str,
) -> None:
    alone = service(network_mode=mode)
    injection = mesh({"tool": alone})
    assert injection.project["services"] == {"tool": alone}
    assert [notice.service for notice in injection.notices] == ["tool"]


def test_a_service_in_another_ones_network_follows_into_its_pod() -> None:
    chain = {
        "web": service(),
        "a": service(network_mode="service:web"),
        "b": service(network_mode="service:a"),
    }
    injection = mesh(chain)
    assert injection.project["services"]["a"]["network_mode"] == "service:web-1-pod"
    assert injection.project["services"]["b"]["network_mode"] == "service:web-1-pod"
    assert "a-1-pod" not in injection.project["services"]
    assert {notice.service for notice in injection.notices} == {"a", "b"}


def test_a_follower_of_an_unmeshed_service_is_left_alone() -> None:
    services = {
        "web": service(network_mode="host"),
        "a": service(network_mode="service:web"),
    }
    assert mesh(services).project["services"] == services


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"sidecar.istio.io/inject": "false"}},
        {"labels": {"dockermesh.io/inject": "false"}},
        {"x-dockermesh": {"inject": False}},
    ],
)
def test_opting_out(change: dict[str, Any]) -> None:
    services = {"web": service(**change)}
    injection = mesh(services)
    assert injection.project["services"] == services
    assert (
        "networks" in injection.project
        and "dockermesh" not in injection.project["networks"]
    )


def test_opting_in_one_by_one() -> None:
    services = {
        "web": service(**{"x-dockermesh": {"inject": True}}),
        "other": service(),
    }
    made = mesh(services, **{"x-dockermesh": {"inject": False}}).project["services"]
    assert "web-1-pod" in made and "other-1-pod" not in made


@pytest.mark.parametrize(
    "change",
    [
        {"user": "1337"},
        {"user": "1337:0"},
        {"user": "0:1337"},
        {"user": "01337"},
        {"group_add": ["1337"]},
    ],
)
@pytest.mark.parametrize("mode", [{}, {"network_mode": "service:web"}])
def test_the_proxys_uid_is_refused(
    change: dict[str, Any], mode: dict[str, str]
) -> None:
    with pytest.raises(InputError, match="1337") as raised:
        mesh({"web": service(), "app": service(**change, **mode)})
    assert raised.value.where == "services.app"
    assert raised.value.fix


def test_other_users_are_fine() -> None:
    assert (
        mesh({"app": service(user="13370:1")}).project["services"]["app"]["user"]
        == "13370:1"
    )


def test_only_the_pod_has_capabilities_and_the_proxy_none() -> None:
    made = mesh({"web": service(ports=[port(80, "80")])}).project["services"]
    for name in ("web-1-proxy", "gateway-proxy"):
        proxy = made[name]
        assert (proxy["user"], proxy["read_only"], proxy["cap_drop"]) == (
            "1337:1337",
            True,
            ["ALL"],
        )
        assert proxy["security_opt"] == ["no-new-privileges:true"]
        assert "cap_add" not in proxy and "privileged" not in proxy
        assert [v["target"] for v in proxy["volumes"] if not v.get("read_only")] == [
            "/run/dockermesh"
        ]
    assert "cap_add" not in made["web"]
    assert made["web-1-pod"]["cap_drop"] == ["ALL"]
    assert made["gateway-pod"]["read_only"]
    # It takes the mesh's address out of the hosts file, which is on its root.
    assert "read_only" not in made["web-1-pod"]


@pytest.mark.parametrize(
    "change", [{"privileged": True}, {"cap_add": ["CAP_NET_ADMIN"]}, {"pid": "host"}]
)
def test_what_can_undo_capture_is_told(change: dict[str, Any]) -> None:
    assert [notice.service for notice in mesh({"web": service(**change)}).notices] == [
        "web"
    ]


RAW = "dockermesh.io/raw-sockets"


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        ({}, None),
        ({"x-dockermesh": {"rawSockets": False}}, ["NET_RAW"]),
        ({"labels": {RAW: "false"}}, ["NET_RAW"]),
        ({"labels": {RAW: "false"}, "x-dockermesh": {"rawSockets": True}}, None),
        ({"labels": {RAW: "false"}, "cap_drop": ["CHOWN"]}, ["CHOWN", "NET_RAW"]),
        ({"labels": {RAW: "false"}, "cap_drop": ["ALL"]}, ["ALL"]),
    ],
)
def test_raw_sockets_are_taken_from_all_in_the_pod(
    change: dict[str, Any], dropped: list[str] | None
) -> None:
    beside = {"image": "beside", "network_mode": "service:web"}
    if "cap_drop" in change:
        beside["cap_drop"] = list(change["cap_drop"])
    made = mesh({"web": service(**change), "beside": beside}).project["services"]
    assert made["web"].get("cap_drop") == made["beside"].get("cap_drop") == dropped
    assert made["web-1-pod"]["cap_drop"] == ["ALL"]


def test_workload_labels_account_and_names() -> None:
    environment = {"SERVICE_NAME": "reviews", "SERVICE_TAGS": "version|v2,zone=a,blue"}
    labels = {"team": "x", "com.docker.compose.y": "z", "SERVICE_REGION": "eu"}
    made = mesh(
        {"reviews-v2": service(environment=environment, labels=labels)}
    ).project["services"]
    pod = made["reviews-v2-1-pod"]["labels"]
    assert json.loads(pod["dockermesh.io/labels"]) == {
        "app": "reviews",
        "version": "v2",
        "zone": "a",
        "team": "x",
    }
    assert pod["dockermesh.io/service-account"] == "reviews"
    assert pod["dockermesh.io/workload"] == "shop/reviews-v2-1"
    assert {
        made[f"reviews-v2{part}"]["labels"]["dockermesh.io/role"]
        for part in ("", "-1-pod", "-1-proxy")
    } == {
        "app",
        "pod",
        "proxy",
    }


@pytest.mark.parametrize(
    "place",
    [
        {"labels": {"dockermesh.io/service-account": "a"}},
        {"x-dockermesh": {"serviceAccount": "a"}},
        {"environment": {"SERVICE_NAME": "web", "SERVICE_ACCOUNT": "a"}},
        {"labels": {"SERVICE_ACCOUNT": "a"}, "environment": {"SERVICE_ACCOUNT": "b"}},
    ],
)
def test_service_account(place: dict[str, Any]) -> None:
    made = mesh({"web": service(**place)}).project["services"]
    assert made["web-1-pod"]["labels"]["dockermesh.io/service-account"] == "a"


@pytest.mark.parametrize("account", ["a/b", "..", "", "ü"])
def test_an_account_that_would_forge_an_identity_is_refused(account: str) -> None:
    with pytest.raises(InputError):
        mesh({"web": service(**{"x-dockermesh": {"serviceAccount": account}})})
    if account:
        with pytest.raises(InputError):
            mesh({"web": service(environment={"SERVICE_ACCOUNT": account})})


@pytest.mark.parametrize(
    ("top", "own", "key"),
    [
        ({"gatway": {}}, {}, "gateway"),
        ({"gateway": {"port": []}}, {}, "ports"),
        ({}, {"serviceAcount": "a"}, "serviceAccount"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(
    top: dict[str, Any], own: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError, match="unknown key") as raised:
        mesh({"web": service(**{"x-dockermesh": own})}, **{"x-dockermesh": top})
    assert repr(key) in raised.value.fix


def test_the_same_capture_settings_share_one_config() -> None:
    tuned = {"labels": {"traffic.sidecar.istio.io/excludeInboundPorts": "9000"}}
    injection = mesh(
        {
            "a": service(**tuned),
            "b": service(**{"x-dockermesh": {"excludeInboundPorts": [9000]}}),
            "c": service(),
        }
    )
    configs = injection.project["configs"]
    assert len(configs) == 1
    ((name, config),) = configs.items()
    assert "9000" in config["content"]
    made = injection.project["services"]
    expected = [{"source": name, "target": "/etc/dockermesh/capture.rules"}]
    assert made["a-1-pod"]["configs"] == made["b-1-pod"]["configs"] == expected
    assert "configs" not in made["c-1-pod"]


@pytest.mark.parametrize("value", ["http", "0", "70000", "80\n-A OUTPUT -j ACCEPT"])
def test_wrong_capture_settings_name_the_service(value: str) -> None:
    with pytest.raises(InputError) as raised:
        mesh(
            {
                "web": service(
                    labels={"traffic.sidecar.istio.io/includeInboundPorts": value}
                )
            }
        )
    assert raised.value.where == "services.web"


def test_interception_can_be_switched_off_but_not_made_tproxy() -> None:
    label = "sidecar.istio.io/interceptionMode"
    made = mesh({"web": service(labels={label: "NONE"})}).project["services"]
    assert made["web-1-pod"]["environment"]["DOCKERMESH_CAPTURE"] == "none"
    with pytest.raises(InputError, match="TPROXY"):
        mesh({"web": service(labels={label: "TPROXY"})})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"interceptionMode": "NONE"}, {"security.istio.io/tlsMode": "disabled"}),
        (
            {"excludeInboundPorts": [9000]},
            {"traffic.sidecar.istio.io/excludeInboundPorts": "9000"},
        ),
        ({}, {}),
    ],
)
def test_a_workload_tells_which_ports_its_proxy_does_not_see(
    settings: object, expected: dict[str, str]
) -> None:
    """Clients would call them over mutual TLS otherwise, and the app would get it."""
    made = mesh({"web": service(**{"x-dockermesh": settings})}).project["services"]
    assert (
        json.loads(made["web-1-pod"]["labels"]["dockermesh.io/labels"])
        == {"app": "web"} | expected
    )


def test_the_mesh_network_is_joined_once_when_the_project_has_it() -> None:
    networks = {"old": {"name": "consul_istiomesh", "external": True}}
    definition = {"image": "x", "networks": {"old": {"ipv4_address": "172.28.0.20"}}}
    injection = mesh(
        {"web": definition},
        InjectOptions(network="consul_istiomesh"),
        networks=networks,
    )
    pod = injection.project["services"]["web-1-pod"]
    assert pod["networks"] == {
        "old": {"ipv4_address": "172.28.0.20", "aliases": ["web", "shop-web-1"]}
    }
    assert injection.project["networks"] == networks
    assert pod["labels"]["dockermesh.io/network"] == "consul_istiomesh"


def test_a_network_of_the_users_named_like_ours_is_not_taken_for_it() -> None:
    networks = {
        "default": {"name": "shop_default"},
        "dockermesh": {"name": "shop_dockermesh"},
    }
    made = mesh({"web": service()}, networks=networks).project
    assert made["networks"]["dockermesh"] == {"name": "shop_dockermesh"}
    assert made["networks"]["dockermesh-mesh"] == {
        "name": "dockermesh",
        "external": True,
    }


def test_a_fixed_address_for_several_replicas_is_refused() -> None:
    with pytest.raises(InputError, match="default"):
        mesh(
            {
                "web": service(
                    scale=2, networks={"default": {"ipv4_address": "10.0.0.2"}}
                )
            }
        )


@pytest.mark.parametrize("other", ["web-1-pod", "web-1-proxy", "gateway-pod"])
def test_names_that_are_taken_are_refused(other: str) -> None:
    with pytest.raises(InputError, match=other):
        mesh({"web": service(ports=[port(80, "80")]), other: service()})


def test_a_meshed_project_is_not_meshed_again() -> None:
    once = mesh({"web": service()}).project
    with pytest.raises(InputError, match="already"):
        mesh(once["services"])


def test_a_thousand_services_take_less_than_two_seconds() -> None:
    from dockermesh.inject.writer import check, to_yaml

    services = {
        f"s{n}": service(expose=["80"], environment={"SERVICE_TAGS": "version|v1"})
        for n in range(1000)
    }
    project = {"name": "big", "services": services, "networks": {"default": None}}
    began = time.process_time()
    injection = mesh(services, name="big")
    check(injection.project, project)
    text = to_yaml(injection.project)
    assert time.process_time() - began < 2
    assert text.count("dockermesh.io/role: pod") == 1000


def test_a_name_that_the_mesh_cannot_have_leaves_its_service_out_and_that_is_told() -> (
    None
):
    made = mesh({"my.svc": service(expose=["80"]), "web": service(expose=["80"])})
    assert "my.svc-1-pod" not in made.project["services"]
    assert [n.service for n in made.notices if "left out of the mesh" in n.text] == [
        "my.svc"
    ]


def test_names_with_underscores_are_as_good_as_any() -> None:
    """`my_db` is no host name, but Compose takes it and Docker's DNS answers it; a project may be
    called so, too.
    """
    source = {
        "name": "my_shop",
        "services": {
            "my_db": service(ports=[port(80, "8000")], container_name="the_db")
        },
        "networks": {"default": {"name": "my_shop_default"}},
    }
    made = inject_project(source, InjectOptions()).project
    check(made, source)
    assert made["services"]["my_db-1-pod"]["networks"]["default"]["aliases"] == [
        "my_db",
        "the_db",
    ]
    text = made["services"]["gateway-pod"]["labels"]["dockermesh.io/config"].replace(
        "$$", "$"
    )
    reading = read_text(text)
    assert [r.kind for r in reading.resources] == ["Gateway", "VirtualService"]
    assert not reading.findings


def test_a_check_that_can_have_no_effect_is_told() -> None:
    env = {"SERVICE_CHECK_TTL": "30s", "SERVICE_80_CHECK_SCRIPT": "true"}
    notices = [str(n) for n in mesh({"web": service(environment=env)}).notices]
    assert ["CHECK_TTL has no effect" in notice for notice in notices] == [True]
