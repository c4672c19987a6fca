"""Where a service's port is on the host: what `docker compose port` would say without the mesh."""

from __future__ import annotations

from typing import Any

import pytest

from dockermesh.client.compose.published_port import published_port
from dockermesh.errors import InputError
from dockermesh.model.contract import (
    COMPOSE_NUMBER,
    COMPOSE_ONE_OFF,
    COMPOSE_SERVICE,
    LABEL_KIND,
    LABEL_PORTS,
    LABEL_ROLE,
    LABEL_SERVICE,
    LABEL_WORKLOAD,
)


def container(
    labels: dict[str, str], *ports: tuple[int, int, str], state: str = "running"
) -> dict[str, Any]:
    listed = [
        {
            "IP": "0.0.0.0",
            "PrivatePort": inside,
            "PublicPort": outside,
            "Type": protocol,
        }
        for inside, outside, protocol in ports
    ]
    return {"Labels": labels, "Ports": listed, "State": state}


def pod(service: str, number: int, *ports: tuple[int, int, str]) -> dict[str, Any]:
    labels = {
        COMPOSE_SERVICE: f"{service}-{number}-pod",
        LABEL_ROLE: "pod",
        LABEL_SERVICE: service,
        LABEL_KIND: "sidecar",
        LABEL_WORKLOAD: f"shop/{service}-{number}",
    }
    return container(labels, *ports)


def app(service: str) -> dict[str, Any]:
    return container(
        {COMPOSE_SERVICE: service, LABEL_ROLE: "app", LABEL_SERVICE: service}
    )


def plain(service: str, number: int, *ports: tuple[int, int, str]) -> dict[str, Any]:
    return container({COMPOSE_SERVICE: service, COMPOSE_NUMBER: str(number)}, *ports)


GATEWAY = container(
    {
        COMPOSE_SERVICE: "gateway-pod",
        LABEL_ROLE: "pod",
        LABEL_SERVICE: "gateway",
        LABEL_KIND: "router",
        LABEL_WORKLOAD: "shop/gateway-1",
        LABEL_PORTS: "web:8000=80,web:9000=9001",
    },
    (80, 30080, "tcp"),
    (9001, 9001, "tcp"),
)
SHOP = [
    app("web"),
    pod("web", 1, (53, 53, "udp"), (7000, 7001, "tcp")),
    pod("web", 2, (7000, 7002, "tcp")),
    GATEWAY,
    plain("bare", 1, (80, 8081, "tcp")),
    plain("bare", 2, (80, 8082, "tcp")),
]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (("web", 8000), 30080),
        (("web", 9000, "tcp", 2), 9001),
        (("web", 53, "udp"), 53),
        (("web", 7000), 7001),
        (("web", 7000, "tcp", 2), 7002),
        (("bare", 80), 8081),
        (("bare", 80, "tcp", 2), 8082),
    ],
)
def test_a_port_is_found_with_its_gateway_its_pod_or_its_container(
    asked: tuple[Any, ...], answer: int
) -> None:
    assert published_port(SHOP, *asked) == ("0.0.0.0", answer)


@pytest.mark.parametrize(
    ("asked", "what", "fix"),
    [
        (("web", 80), "port 80/tcp of 'web'", "53/udp, 7000/tcp, 8000/tcp, 9000/tcp"),
        (("web", 8000, "udp"), "port 8000/udp of 'web'", "8000/tcp"),
        (("web", 8000, "tcp", 3), "'web' is not running container #3", "ps"),
        (("gateway", 80), "'gateway' is not running", "ps"),
        (("nobody", 80), "'nobody' is not running", "ps"),
    ],
)
def test_what_is_not_published_is_refused_with_what_is(
    asked: tuple[Any, ...], what: str, fix: str
) -> None:
    with pytest.raises(InputError) as raised:
        published_port(SHOP, *asked)

    assert what in raised.value.what
    assert fix in str(raised.value.fix)


def test_neither_a_stopped_container_nor_one_of_compose_run_counts() -> None:
    stopped = plain("web", 1, (80, 8081, "tcp")) | {"State": "exited"}
    once = plain("web", 1, (80, 8081, "tcp"))
    once["Labels"][COMPOSE_ONE_OFF] = "True"

    with pytest.raises(InputError):
        published_port([stopped, once], "web", 80)
