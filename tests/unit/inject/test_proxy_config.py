"""`proxy.istio.io/config` at a service."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from inject_projects import mesh, port, service

from dockermesh.errors import InputError
from dockermesh.inject.options import InjectOptions


def injected(label: str | None) -> tuple[list[str], list[str]]:
    """The proxy's command, and what the user is told."""
    labels = {} if label is None else {"proxy.istio.io/config": label}
    made = mesh({"web": service(labels=labels)})
    (command,) = (
        of["command"] for of in made.project["services"].values() if "user" in of
    )
    return command, [str(n) for n in made.notices]


def threads(command: list[str]) -> str:
    if "--concurrency" not in command:
        return ""
    return command[command.index("--concurrency") + 1]


@pytest.mark.parametrize(
    ("label", "expected"),
    [(None, "1"), ("", "1"), ("concurrency: 3", "3"), ("{concurrency: 0}", "")],
)
def test_a_proxy_has_as_many_threads_as_its_service_says(
    label: str | None, expected: str
) -> None:
    command, notices = injected(label)
    assert threads(command) == expected
    assert notices == []


def test_what_has_no_effect_is_named() -> None:
    command, notices = injected("{tracing: {sampling: 5}, concurrency: 2, meshId: x}")
    assert threads(command) == "2"
    (told,) = notices
    assert told.endswith("no effect: meshId, tracing")


@pytest.mark.parametrize(
    "label",
    [
        "concurrency: x",
        "concurrency: -1",
        "concurrency: true",
        "[",
        "a",
        "drainDuration: 2h",
        "drainDuration: 0s",
        "drainDuration: soon",
        "proxyMetadata: [a]",
        "proxyMetadata: {a=b: c}",
        "proxyMetadata: {a: [b]}",
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(label: str) -> None:
    with pytest.raises(InputError) as error:
        injected(label)
    assert error.value.where == "services.web.labels.proxy.istio.io/config"


def test_drain_and_environment_are_the_proxys() -> None:
    command, notices = injected(
        "{drainDuration: 45s, proxyMetadata: {COLOUR: red, N: 1}, "
        "holdApplicationUntilProxyStarts: true}"
    )
    assert command[command.index("--drain-time-s") + 1] == "45"
    assert notices == []
    _, notices = injected("holdApplicationUntilProxyStarts: false")
    assert notices[0].endswith("no effect: holdApplicationUntilProxyStarts: false")


MESH = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: m, namespace: istio-system}
spec: {defaultConfig: {concurrency: 3, drainDuration: 9s, proxyMetadata: {FROM: mesh, MESH: a$b}}}
"""


def config(name: str, namespace: str, spec: str, created: str = "") -> str:
    at = f", creationTimestamp: '{created}'" if created else ""
    return (
        "{apiVersion: networking.istio.io/v1beta1, kind: ProxyConfig, metadata: {name: "
        f"{name}, namespace: {namespace}{at}}}, spec: {spec}}}"
    )


ROOT = config("r", "istio-system", "{concurrency: 4, environmentVariables: {ROOT: r}}")
OWN = config("n", "default", "{environmentVariables: {FROM: namespace}}")
OTHER = config("o", "elsewhere", "{concurrency: 9}")
SELECTED = config(
    "s", "default", "{selector: {matchLabels: {app: web}}, concurrency: 0}"
)


def started(label: str, *documents: str) -> tuple[str, str, dict[str, str]]:
    """Threads, drain time and own environment of the proxy of `web`."""
    options = InjectOptions(config=tuple(map(yaml.safe_load, documents)))
    made = mesh({"web": service(labels={"proxy.istio.io/config": label})}, options)
    (proxy,) = (of for of in made.project["services"].values() if "user" in of)
    command: list[str] = proxy["command"]
    own = {k: v for k, v in proxy["environment"].items() if "DOCKERMESH" not in k}
    own.pop("OTEL_RESOURCE_ATTRIBUTES")
    drain = command[command.index("--drain-time-s") + 1]
    return threads(command), drain, own


@pytest.mark.parametrize(
    ("label", "documents", "expected"),
    [
        ("", (), ("1", "5", {})),
        ("", (MESH,), ("3", "9", {"FROM": "mesh", "MESH": "a$$b"})),
        ("", (OTHER,), ("1", "5", {})),
        ("", (ROOT, MESH), ("4", "9", {"FROM": "mesh", "MESH": "a$$b", "ROOT": "r"})),
        ("", (ROOT, OWN), ("4", "5", {"FROM": "namespace", "ROOT": "r"})),
        (
            "{concurrency: 7, proxyMetadata: {FROM: label}}",
            (ROOT, OWN),
            ("7", "5", {"FROM": "label", "ROOT": "r"}),
        ),
        (
            "concurrency: 7",
            (ROOT, OWN, SELECTED),
            ("", "5", {"FROM": "namespace", "ROOT": "r"}),
        ),
    ],
)
def test_levels_are_merged_as_in_istio(
    label: str, documents: tuple[str, ...], expected: Any
) -> None:
    assert started(label, *documents) == expected


def test_of_one_level_the_oldest_counts() -> None:
    old = config("b", "default", "{concurrency: 5}", "2024-01-01T00:00:00Z")
    new = config("a", "default", "{concurrency: 6}", "2025-01-01T00:00:00Z")
    unstored = config("0", "default", "{concurrency: 7}")
    assert started("", unstored, new, old)[0] == "5"


def test_what_tells_a_proxy_whose_it_is_cannot_be_changed() -> None:
    taken = config("n", "default", "{environmentVariables: {DOCKERMESH_WORKLOAD: x}}")
    options = InjectOptions(stored=(yaml.safe_load(taken),))
    made = mesh({"web": service()}, options)
    (proxy,) = (of for of in made.project["services"].values() if "user" in of)
    assert proxy["environment"]["DOCKERMESH_WORKLOAD"] == "shop/web-1"


def test_gateways_have_two_threads_unless_a_resource_says_otherwise() -> None:
    def gateways(*documents: str) -> set[str]:
        read = tuple(map(yaml.safe_load, documents))
        options = InjectOptions(config=read, egress_gateway=True)
        made = mesh({"web": service()}, options).project["services"]
        found = (of for name, of in made.items() if "user" in of and "egress" in name)
        return {threads(of["command"]) for of in found}

    assert (gateways(), gateways(ROOT)) == ({"2"}, {"4"})


def of_gateway(said: Any) -> tuple[dict[str, str], list[str], list[str]]:
    """The labels of the gateway's workload, its proxy's command, and what the user is told."""
    gateway = {"gateway": {"proxy.istio.io/config": said}}
    web = service(ports=[port(80, "8000")])
    made = mesh({"web": web}, **{"x-dockermesh": gateway})
    services = made.project["services"]
    labels = json.loads(services["gateway-pod"]["labels"]["dockermesh.io/labels"])
    return labels, services["gateway-proxy"]["command"], [str(n) for n in made.notices]


@pytest.mark.parametrize(
    "said",
    [
        {"gatewayTopology": {"numTrustedProxies": 2}, "concurrency": 3},
        "gatewayTopology: {numTrustedProxies: 2}\nconcurrency: 3",
    ],
)
def test_a_project_says_of_its_gateway_what_an_annotation_would(said: Any) -> None:
    labels, command, notices = of_gateway(said)
    told = {"gatewayTopology": {"numTrustedProxies": 2}}
    assert json.loads(labels["proxy.istio.io/config"]) == told
    assert threads(command) == "3"
    assert notices == []


def test_of_a_gateway_only_what_concerns_it_has_an_effect() -> None:
    labels, _, notices = of_gateway({"meshId": "x"})
    assert "proxy.istio.io/config" not in labels
    assert notices == ["gateway: of proxy.istio.io/config these have no effect: meshId"]
    _, notices = injected("gatewayTopology: {numTrustedProxies: 2}")
    assert notices[0].endswith("no effect: gatewayTopology")


def test_a_topology_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputError, match="numTrustedProxies"):
        of_gateway({"gatewayTopology": {"numTrustedProxies": "many"}})
