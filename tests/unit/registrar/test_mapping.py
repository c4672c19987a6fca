"""registrator's mapping, its corners, and what is added for pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from dockermesh.cli.registrar import command
from dockermesh.errors import InputError
from dockermesh.model import TRUST_PATH
from dockermesh.model.contract import PROXY_PORTS, RESERVED_NAMES
from dockermesh.registrar.checks import HealthStatus, all_of, command_of
from dockermesh.registrar.container import Container, parse_container
from dockermesh.registrar.mapping import map_container
from dockermesh.registrar.options import Options, parse_flags
from dockermesh.registrar.render import render_registrations

ID = "0123456789abcdef" * 4
RUN = Options(hostname="h", internal=True, run_checks=True)


def inspect(
    env: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    *,
    exposed: tuple[str, ...] = ("9080/tcp",),
    ports: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    settings = {
        "Ports": dict.fromkeys(exposed) if ports is None else ports,
        "IPAddress": "172.17.0.5",
    }
    base = {
        "Id": ID,
        "Name": "/shop-web-1",
        "Config": {
            "Image": "registry:5000/team/web:1.2@sha256:abc",
            "Hostname": "c0ffee",
            "Env": [f"{k}={v}" for k, v in (env or {}).items()],
            "Labels": labels or {},
            "ExposedPorts": {p: {} for p in exposed},
        },
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": settings,
        "State": {
            "Running": True,
            "Status": "running",
            "StartedAt": "2026-11-01T00:00:00.5Z",
        },
    }
    for key, value in more.items():
        base[key] = base.get(key, {}) | value if isinstance(value, dict) else value
    return base


def bodies(
    data: dict[str, Any] | list[dict[str, Any]], **flags: Any
) -> list[dict[str, Any]]:
    return render_registrations(
        data, {"hostname": "h", "internal": True} | flags, lambda _: "192.0.2.1"
    )[0]


def only(data: dict[str, Any], **flags: Any) -> dict[str, Any]:
    (body,) = bodies(data, **flags)
    return body


def test_an_internal_service_has_registrators_form() -> None:
    body = only(
        inspect(
            {
                "SERVICE_NAME": "web",
                "SERVICE_TAGS": r"a,b\,c,,version|v1",
                "SERVICE_REGION": "eu",
            }
        )
    )
    assert body["ID"] == "h:shop-web-1:9080"
    assert body["Name"] == "web"
    assert set(body["Tags"]) == {"a", "b,c", "version|v1"}
    assert (body["Address"], body["Port"]) == ("172.17.0.5", 9080)
    foreign = {k: v for k, v in body["Meta"].items() if not k.startswith("dockermesh")}
    assert foreign == {"region": "eu"}
    assert "Check" not in body


def test_published_ports_count_without_internal() -> None:
    ports = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None}
    data = inspect(exposed=("80/tcp", "81/tcp"), ports=ports)
    body = only(data, internal=False, ip="10.1.1.1")
    assert (body["Name"], body["ID"]) == ("web", "h:shop-web-1:80")
    assert (body["Address"], body["Port"]) == ("10.1.1.1", 8080)
    assert only(data, internal=False)["Address"] == "192.0.2.1"
    ports["80/tcp"][0]["HostIp"] = "10.9.9.9"  # type: ignore[index]
    assert only(data, internal=False)["Address"] == "10.9.9.9"


def test_several_ports_make_a_group_counted_before_ignore() -> None:
    two = ("9080/tcp", "9443/tcp")
    assert [b["Name"] for b in bodies(inspect({"SERVICE_NAME": "r"}, exposed=two))] == [
        "r-9080",
        "r-9443",
    ]
    ignored = {"SERVICE_NAME": "r", "SERVICE_9443_IGNORE": "false"}
    assert [b["Name"] for b in bodies(inspect(ignored, exposed=two))] == ["r-9080"]
    named = {"SERVICE_9080_NAME": "reviews", "SERVICE_9443_IGNORE": "1"}
    assert [b["Name"] for b in bodies(inspect(named, exposed=two))] == ["reviews"]


def test_labels_beat_environment_and_ports_beat_both() -> None:
    env = {
        "SERVICE_NAME": "env",
        "SERVICE_9080_COLOR": "port",
        "SERVICE_1_COLOR": "other",
    }
    body = only(inspect(env, {"SERVICE_NAME": "label", "SERVICE_COLOR": "any"}))
    assert body["Name"] == "label"
    assert body["Meta"]["color"] == "port"


def test_udp_explicit_and_ids() -> None:
    body = only(inspect({"SERVICE_NAME": "dns"}, exposed=("53/udp",)))
    assert body["ID"] == "h:shop-web-1:53:udp"
    assert body["Tags"] == ["udp"]
    assert bodies(inspect(), explicit=True) == []
    assert (
        only(inspect({"SERVICE_NAME": "a", "SERVICE_ID": "mine"}), explicit=True)["ID"]
        == "mine"
    )


@pytest.mark.parametrize(
    ("env", "check"),
    [
        (
            {"CHECK_HTTP": "/up", "CHECK_HTTP_METHOD": "HEAD", "CHECK_TIMEOUT": "2s"},
            {
                "HTTP": "http://172.17.0.5:9080/up",
                "Method": "HEAD",
                "Timeout": "2s",
                "Interval": "10s",
            },
        ),
        (
            {
                "9080_CHECK_HTTPS": "/up",
                "CHECK_INTERVAL": "3s",
                "CHECK_INITIAL_STATUS": "passing",
            },
            {
                "HTTP": "https://172.17.0.5:9080/up",
                "Interval": "3s",
                "Status": "passing",
            },
        ),
        (
            {"CHECK_CMD": "/bin/ok -v"},
            {"Args": ["check-cmd", ID[:12], "9080", "/bin/ok -v"], "Interval": "10s"},
        ),
        (
            {"CHECK_SCRIPT": "nc $SERVICE_IP $SERVICE_PORT"},
            {"Args": ["/bin/sh", "-c", "nc 172.17.0.5 9080"], "Interval": "10s"},
        ),
        (
            {"CHECK_TTL": "30s", "CHECK_DEREGISTER_AFTER": "1h"},
            {"TTL": "30s", "DeregisterCriticalServiceAfter": "1h"},
        ),
        ({"CHECK_TCP": "true"}, {"TCP": "172.17.0.5:9080", "Interval": "10s"}),
        (
            {
                "CHECK_GRPC": "1",
                "CHECK_GRPC_USE_TLS": "1",
                "CHECK_TLS_SKIP_VERIFY": "1",
            },
            {
                "GRPC": "172.17.0.5:9080",
                "GRPCUseTLS": True,
                "TLSSkipVerify": True,
                "Interval": "10s",
            },
        ),
    ],
)
def test_checks(env: dict[str, str], check: dict[str, Any]) -> None:
    body = only(inspect({f"SERVICE_{k}": v for k, v in env.items()}))
    assert body["Check"] == check
    assert body["Meta"].keys() >= {k.lower().removeprefix("9080_") for k in env}


def test_dockers_health_becomes_a_check_whose_status_does_not_change_the_registration() -> (
    None
):
    starting = only(inspect(State={"Health": {"Status": "starting"}}))
    healthy = only(inspect(State={"Health": {"Status": "healthy"}}))
    assert starting["Check"]["Status"] == "critical"
    assert healthy["Check"]["Status"] == "passing"
    assert starting["Meta"] == healthy["Meta"]
    both = only(
        inspect({"SERVICE_CHECK_TCP": "1"}, State={"Health": {"Status": "healthy"}})
    )
    assert "TCP" in both["Check"]
    assert both["Checks"][0]["CheckID"] == "dockermesh:h:shop-web-1:9080"
    assert only(inspect(State={"Paused": True}))["Check"]["Status"] == "critical"


def test_checks_that_the_registrar_asks_are_none_of_consuls() -> None:
    """Consul gets one check, which the registrar reports; what nobody can ask here is left out."""
    body = only(inspect({"SERVICE_CHECK_HTTP": "/up"}), run_checks=True)
    assert "Check" not in body
    (made,), _ = map_container(
        parse_container(inspect({"SERVICE_CHECK_HTTP": "/up"})), None, RUN
    )
    assert made.own_check == {"HTTP": "http://172.17.0.5:9080/up", "Interval": "10s"}
    assert made.socket == "172.17.0.5:9080"
    (made,), (finding,) = map_container(
        parse_container(inspect({"SERVICE_CHECK_TTL": "30s"})), None, RUN
    )
    assert (made.check, made.own_check) == (None, None)
    assert "has no effect" in finding.reason and finding.is_warning


@pytest.mark.parametrize("kind", ["SCRIPT", "CMD"])
def test_a_script_that_the_registrar_runs_has_the_shell_and_its_timeout(
    kind: str,
) -> None:
    env = {f"SERVICE_CHECK_{kind}": "test -e /up", "SERVICE_CHECK_TIMEOUT": "3s"}
    (made,), skipped = map_container(parse_container(inspect(env)), None, RUN)
    assert made.check is None and made.own_check is not None and not skipped
    assert command_of(made.own_check) == ["/bin/sh", "-c", "test -e /up"]
    assert made.own_check["Timeout"] == "3s"
    # To Consul it goes as registrator sends it.
    assert "Timeout" not in only(inspect(env))["Check"]


FOR_MESH = {"for_mesh": True, "network": "mesh", "explicit": False}
COMPOSE = {"com.docker.compose.project": "shop", "com.docker.compose.service": "cache"}


def networks(**addresses: str) -> dict[str, Any]:
    return {"Networks": {n: {"IPAddress": ip} for n, ip in addresses.items()}}


def test_what_the_mesh_network_does_not_reach_is_no_endpoint_of_a_mesh() -> None:
    apart = inspect(NetworkSettings=networks(shop_default="172.18.0.2"))
    assert bodies(apart, **FOR_MESH) == []
    assert only(apart)["Address"] == "172.17.0.5"
    (_, notes) = render_registrations([apart], {"internal": True, **FOR_MESH})
    assert "not on its network mesh" in notes[0]

    both = networks(shop_default="172.18.0.2", mesh="172.28.0.9")
    assert only(inspect(NetworkSettings=both), **FOR_MESH)["Address"] == "172.28.0.9"


def test_a_compose_service_outside_of_the_mesh_is_called_as_in_its_file() -> None:
    there = inspect(labels=COMPOSE, NetworkSettings=networks(mesh="172.28.0.9"))
    assert only(there, **FOR_MESH)["Name"] == "cache"
    assert only(there)["Name"] == "web"
    named = inspect({"SERVICE_NAME": "store"}, COMPOSE) | {
        "NetworkSettings": networks(mesh="172.28.0.9")
    }
    assert only(named, **FOR_MESH)["Name"] == "store"
    assert bodies(there, **(FOR_MESH | {"explicit": True})) == []


@pytest.mark.parametrize("image", ["sha256:" + "ab12" * 16, "ab12ab12ab12", "ab12"])
def test_an_image_given_by_id_names_no_service(image: str) -> None:
    def found(labels: dict[str, str]) -> dict[str, Any]:
        data = inspect(labels=labels) | {"Image": "sha256:" + "ab12" * 16}
        data["Config"]["Image"] = image
        return only(data)

    assert found({})["Name"] == "shop-web-1"
    assert found(COMPOSE)["Name"] == "cache"


def test_an_image_whose_name_could_be_an_id_names_its_service() -> None:
    data = inspect() | {"Image": "sha256:" + "ab12" * 16}
    data["Config"]["Image"] = "cafe:1"
    assert only(data)["Name"] == "cafe"


@pytest.mark.parametrize(
    ("docker", "answer", "all_in_all"),
    [
        (None, None, "critical"),
        (None, "passing", "passing"),
        ("passing", "critical", "critical"),
        ("passing", "warning", "warning"),
        ("critical", "passing", "critical"),
    ],
)
def test_health_is_the_worse_of_dockers_verdict_and_the_answer(
    docker: str | None, answer: str | None, all_in_all: str
) -> None:
    known, told = (HealthStatus(s) if s else None for s in (docker, answer))
    found = all_of(known, {"TCP": "10.0.0.1:1"}, told)
    assert found is not None
    assert found.status == all_in_all
    assert all_of(
        None, {"TCP": "10.0.0.1:1", "Status": "passing"}, None
    ) == HealthStatus("passing", "not asked yet")
    assert all_of(known, None, None) is known


def test_the_address_does_not_depend_on_the_order_of_networks() -> None:
    networks = {
        "z": {"IPAddress": "10.0.0.26"},
        "a": {"IPAddress": "10.0.0.1"},
        "empty": {"IPAddress": ""},
    }
    data = inspect(NetworkSettings={"IPAddress": "", "Networks": networks})
    assert only(data)["Address"] == "10.0.0.1"
    networks["dockermesh"] = {"IPAddress": "172.28.0.9"}
    assert only(data)["Address"] == "172.28.0.9"
    assert only(data, network="z")["Address"] == "10.0.0.26"


def test_the_hosts_own_addresses_on_a_containers_networks_are_known() -> None:
    networks = {
        "b": {"IPAddress": "10.0.0.1", "Gateway": "10.0.0.254"},
        "a": {"IPAddress": "10.1.0.1", "Gateway": "10.1.0.254", "IPv6Gateway": "fd::1"},
        "internal": {"IPAddress": "10.2.0.1", "Gateway": ""},
        "gone": None,
    }
    found = parse_container(inspect(NetworkSettings={"Networks": networks}))
    assert found.bridges == ("10.0.0.254", "10.1.0.254", "fd::1")


def test_docker_29_says_the_default_bridges_address_in_another_place() -> None:
    networks = {"a": {"IPAddress": "10.0.0.1"}, "bridge": {"IPAddress": "172.17.0.5"}}
    old, new = (inspect(NetworkSettings={"Networks": networks}) for _ in range(2))
    del new["NetworkSettings"]["IPAddress"]
    tags = "at-{{.NetworkSettings.IPAddress}}"
    assert only(new, tags=tags) == only(old, tags=tags)
    assert (only(new)["Address"], only(new, tags=tags)["Tags"]) == (
        "172.17.0.5",
        ["at-172.17.0.5"],
    )


def test_an_address_from_a_label_loses_its_mask_and_must_be_one() -> None:
    assert (
        only(inspect(labels={"ip": "10.7.7.7/24"}), useIpFromLabel="ip")["Address"]
        == "10.7.7.7"
    )
    for bad in (
        "127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "example.com",
        "::1",
        "224.0.0.1",
    ):
        assert bodies(inspect(labels={"ip": bad}), useIpFromLabel="ip") == []


@pytest.mark.parametrize(
    "name",
    ["a|b", "a/b", "../../etc", "a\nb", "x" * 300, "naïve", "a b", "-", "a..b", ".a"][
        :7
    ],
)
def test_hostile_names_are_skipped_with_a_reason(name: str) -> None:
    found, notes = render_registrations(
        inspect({"SERVICE_NAME": name}), {"hostname": "h", "internal": True}
    )
    assert found == []
    assert "not a DNS name" in notes[0]
    assert "\n" not in notes[0]
    assert bodies(inspect({"SERVICE_ID": name})) == []


@pytest.mark.parametrize("name", sorted({*RESERVED_NAMES, "Consul"}))
def test_the_meshs_own_names_are_not_to_be_had(name: str) -> None:
    found, notes = render_registrations(
        inspect({"SERVICE_NAME": name}), {"hostname": "h", "internal": True}
    )
    assert found == []
    assert name in notes[0]
    assert "SERVICE_NAME" in notes[0]


def test_what_consul_would_refuse_is_dropped() -> None:
    env = {f"SERVICE_K{n:02}": "v" for n in range(80)}
    env |= {
        "SERVICE_BAD.KEY": "x",
        "SERVICE_LONG": "x" * 513,
        "SERVICE_DOCKERMESH-HOST": "spoof",
    }
    env |= {"SERVICE_TAGS": "good,evil\ntag"}
    body = only(inspect(env))
    assert len(body["Meta"]) == 63, "one is left for whoever has its id"
    assert body["Meta"]["dockermesh-host"] == "h"
    assert not {"bad.key", "long"} & body["Meta"].keys()
    assert body["Tags"] == ["good"]


def test_tags_are_a_template_over_inspect() -> None:
    data = inspect(labels={"team": "red"})
    tags = 'on-{{.Config.Hostname}},{{index .Config.Labels "team" | toUpper}},{{ .ID | printf }}'
    with pytest.raises(InputError, match="printf"):
        only(data, tags=tags)
    assert set(only(data, tags=tags.rpartition(",")[0])["Tags"]) == {"on-c0ffee", "RED"}


def pod_and_app(**app_labels: str) -> list[dict[str, Any]]:
    labels = {
        "dockermesh.io/role": "pod",
        "dockermesh.io/workload": "shop/web-1",
        "dockermesh.io/network": "mesh",
        "dockermesh.io/service-account": "web-sa",
    }
    networks = {"front": {"IPAddress": "10.0.0.2"}, "mesh": {"IPAddress": "10.5.0.2"}}
    pod = inspect(
        labels=labels,
        exposed=(
            "7000/tcp",
            *(f"{n}/{p}" for n in PROXY_PORTS for p in ("tcp", "udp")),
        ),
        NetworkSettings={"Networks": networks},
    )
    pod |= {"Id": "f" * 64, "Name": "/pod"}
    pod["HostConfig"] = {
        "NetworkMode": "shop",
        "Mounts": [{"Type": "volume", "Target": TRUST_PATH}],
    }
    own = {
        "dockermesh.io/role": "app",
        "dockermesh.io/workload": "shop/web-1",
        "dockermesh.io/service": "frontend",
    }
    app = inspect(labels=own | app_labels, exposed=("9080/tcp",), ports={})
    app["HostConfig"] = {"NetworkMode": "container:" + "f" * 64}
    app["NetworkSettings"] = {"Ports": {}, "IPAddress": "", "Networks": {}}
    return [pod, app]


@pytest.mark.parametrize("role", ["pod", "app", "proxy", "follower", "nonsense"])
def test_an_image_cannot_make_a_container_a_part_of_the_mesh(role: str) -> None:
    labels = {
        "dockermesh.io/role": role,
        "dockermesh.io/workload": "shop/bank-1",
        "dockermesh.io/config": "x",
        "a": "b",
    }
    alone = inspect(
        labels=labels,
        exposed=("9080/tcp",),
        Mounts=[{"Type": "volume", "Destination": TRUST_PATH}],
    )
    found = parse_container(alone)
    assert (found.role, found.group, dict(found.labels)) == ("", ID[:12], {"a": "b"})


def test_a_meshed_app_takes_address_and_ports_from_its_pod() -> None:
    found = bodies(pod_and_app(), internal=False, explicit=True)
    assert [(b["Name"], b["Address"], b["Port"]) for b in found] == [
        ("frontend-7000", "10.5.0.2", 7000),
        ("frontend-9080", "10.5.0.2", 9080),
    ]
    meta = found[0]["Meta"]
    assert meta["dockermesh-workload"] == "shop/web-1"
    assert meta["dockermesh-service"] == "frontend"
    assert meta["dockermesh-service-account"] == "web-sa"
    assert meta["dockermesh-namespace"] == "default"


def test_compose_run_is_left_out() -> None:
    assert bodies(inspect(labels={"com.docker.compose.oneoff": "True"})) == []


def test_flags_are_taken_in_any_spelling() -> None:
    options, unknown = parse_flags(
        {"Internal": "true", "USE_IP_FROM_LABEL": "l", "forceTags": "a", "resync": 5}
    )
    assert options == Options(internal=True, use_ip_from_label="l", tags="a")
    assert unknown == ("resync",)
    with pytest.raises(InputError):
        parse_flags({"ttl": 10})
    with pytest.raises(InputError):
        parse_flags({"internal": "perhaps"})


def test_mapping_twice_gives_the_same() -> None:
    container: Container = parse_container(inspect())
    options = Options(hostname="h", internal=True)
    assert map_container(container, None, options) == map_container(
        container, None, options
    )


def test_render_prints_bodies(tmp_path: Any) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps([inspect({"SERVICE_NAME": "web"})]))
    flags = tmp_path / "f.json"
    flags.write_text('{"hostname": "h", "internal": true}')
    result = CliRunner().invoke(
        command, ["render", "--inspect", str(file), "--flags", str(flags)]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["Name"] == "web"
    file.write_text("nonsense")
    result = CliRunner().invoke(command, ["render", "--inspect", str(file)])
    assert isinstance(result.exception, InputError)


@pytest.mark.parametrize(
    ("image", "port", "told"),
    [
        ("mysql:8", 3399, "mysql"),
        ("maildev/maildev", 1080, "auto"),
        # The number says the same to whoever reads the registration.
        ("mysql:8", 3306, None),
        ("nats", 4222, None),
        ("me/web", 3399, None),
    ],
)
def test_what_an_image_speaks_is_told_where_the_number_does_not(
    image: str, port: int, told: str | None
) -> None:
    data = inspect(exposed=(f"{port}/tcp",))
    data["Config"]["Image"] = image
    assert only(data)["Meta"].get("dockermesh-protocol") == told


def test_a_port_of_the_host_is_what_the_container_s_is() -> None:
    data = inspect(
        exposed=("5432/tcp",),
        ports={"5432/tcp": [{"HostIp": "0.0.0.0", "HostPort": "15999"}]},
    )
    body = only(data, internal=False)
    assert body["Port"] == 15999
    assert body["Meta"]["dockermesh-protocol"] == "tcp"
