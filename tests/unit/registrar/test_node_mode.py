"""Who is a workload in node mode, and as whom: by what the engine says, never by what an image
brings.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from patience import SLACK

from dockermesh.model import ProxyMode, WorkloadKind
from dockermesh.model.attached import Attached
from dockermesh.model.contract import (
    COMPOSE_NUMBER,
    COMPOSE_ONE_OFF,
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_ACCOUNT,
    LABEL_INJECT,
    LABEL_KIND,
    LABEL_MODE,
    LABEL_NAMESPACE,
    LABEL_ROLE,
    LABEL_WORKLOAD,
    MESH_PROJECT,
    TRUST_PATH,
)
from dockermesh.registrar.attached import AttachedFile
from dockermesh.registrar.container import Container, parse_container
from dockermesh.registrar.desired import desired_state
from dockermesh.registrar.node_mode import Brought, Images, as_workload
from dockermesh.registrar.options import Options

SHOP = Attached(projects=frozenset({"shop"}))
OF_WEB = {COMPOSE_PROJECT: "shop", COMPOSE_SERVICE: "web", COMPOSE_NUMBER: "2"}
RUN = Options(
    hostname="h", host="h", internal=True, for_mesh=True, network="dockermesh"
)


def inspected(
    labels: dict[str, str] | None = None,
    *,
    env: tuple[str, ...] = (),
    aliases: tuple[str, ...] = ("shop-web-2", "web"),
    mode: str = "shop_default",
    running: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """A container as Compose makes it."""
    return {
        "Id": "c" * 64,
        "Name": "/shop-web-2",
        "Image": "sha256:" + "1" * 64,
        "Config": {
            "Image": "web",
            "Env": list(env),
            "Labels": OF_WEB | (labels or {}),
            "ExposedPorts": {"9080/tcp": {}},
        },
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {
            "Ports": {"9080/tcp": None},
            "SandboxKey": "/var/run/docker/netns/0123abcd",
            "Networks": {
                "shop_default": {"IPAddress": "172.20.0.5", "Aliases": list(aliases)}
            },
        },
        "State": {
            "Running": running,
            "Status": "running" if running else "exited",
            "StartedAt": "2026-11-01T00:00:00Z",
        },
    } | more


def made(
    data: dict[str, Any],
    image: Brought | None = None,
    attached: Attached = SHOP,
) -> Container:
    return as_workload(parse_container(data), image or Brought(), attached)


def test_a_container_of_an_attached_project_is_a_workload_of_its_own() -> None:
    (workload,) = desired_state([made(inspected())], RUN).workloads
    assert workload.name == "shop/web-2"
    assert (workload.mode, workload.kind) == (ProxyMode.NODE, WorkloadKind.SIDECAR)
    assert str(workload.identity("t")) == "spiffe://t/ns/default/sa/web"
    assert workload.address == "172.20.0.5"
    assert workload.network_namespace == "/run/netns/0123abcd"
    assert workload.token_sha256 == "", "it has no proxy that could show one"
    assert dict(workload.labels) == {"app": "web"}


def test_its_service_is_registered_at_its_own_address_as_its_workload() -> None:
    (registration,) = desired_state([made(inspected())], RUN).registrations
    assert (registration.name, registration.socket) == ("web", "172.20.0.5:9080")
    assert registration.meta["dockermesh-workload"] == "shop/web-2"


def test_a_stopped_one_keeps_its_record_and_has_no_namespace() -> None:
    (workload,) = desired_state([made(inspected(running=False))], RUN).workloads
    assert workload.network_namespace == ""
    assert workload.ports


def test_who_is_not_attached_is_none() -> None:
    assert not made(inspected(), attached=Attached()).is_node_mode
    other = Attached(projects=frozenset({"other"}))
    assert not made(inspected(), attached=other).is_node_mode


def test_a_label_of_its_own_is_enough_and_one_of_its_image_is_not() -> None:
    data = inspected({LABEL_MODE: "node"})
    assert made(data, attached=Attached()).is_node_mode
    brought = Brought({LABEL_MODE: "node"})
    assert not made(data, brought, Attached()).is_node_mode


def test_an_image_that_brings_the_labels_of_a_project_is_not_of_that() -> None:
    """Those that Compose builds do, and anybody can run them."""
    by_hand = inspected(aliases=("cccccccccccc",))
    container = made(by_hand, Brought(OF_WEB))
    assert not container.is_node_mode
    assert COMPOSE_PROJECT in container.labels, "it stays as it was"
    assert desired_state([container], RUN).workloads == ()


def test_attached_by_its_name_it_is_nobody_of_the_project_that_its_image_names() -> (
    None
):
    attached = Attached(containers=frozenset({"shop-web-2"}))
    container = made(inspected(aliases=()), Brought(OF_WEB), attached)
    (workload,) = desired_state([container], RUN).workloads
    assert workload.name == "containers/shop-web-2-1"
    assert workload.identity("t").service_account == "shop-web-2"


def test_identity_and_labels_are_the_users_and_never_the_images() -> None:
    labels = {LABEL_ACCOUNT: "bank", LABEL_NAMESPACE: "prod", "tier": "gold"}
    env = ("SERVICE_NAME=shop", "SERVICE_TAGS=version|v2")
    (own,) = desired_state([made(inspected(labels, env=env))], RUN).workloads
    assert str(own.identity("t")) == "spiffe://t/ns/prod/sa/bank"
    assert dict(own.labels) == {"app": "shop", "version": "v2", "tier": "gold"}

    brought = Brought(labels, frozenset(env))
    (its,) = desired_state([made(inspected(labels, env=env), brought)], RUN).workloads
    assert str(its.identity("t")) == "spiffe://t/ns/default/sa/web"
    assert dict(its.labels) == {"app": "web"}


def test_the_account_is_the_one_that_a_sidecar_would_have() -> None:
    for env, account in (
        (("SERVICE_ACCOUNT=clerk", "SERVICE_NAME=shop"), "clerk"),
        (("SERVICE_NAME=shop",), "shop"),
        (("SERVICE_9080_NAME=front",), "front"),
        (("SERVICE_ACCOUNT=a/b",), "web"),
    ):
        (workload,) = desired_state([made(inspected(env=env))], RUN).workloads
        assert workload.identity("t").service_account == account, env


@pytest.mark.parametrize(
    "data",
    [
        inspected(mode="host"),
        inspected(mode="none"),
        inspected(mode=f"container:{'d' * 64}"),
        inspected({LABEL_INJECT: "false"}),
        inspected({LABEL_MODE: "sidecar"}),
        inspected({COMPOSE_ONE_OFF: "True"}),
        inspected({LABEL_NAMESPACE: "../x"}),
        inspected({COMPOSE_PROJECT: MESH_PROJECT}),
        inspected(Config={"User": "1337:0", "Labels": OF_WEB}),
    ],
)
def test_what_cannot_or_is_not_to_be_served_stays_out(data: dict[str, Any]) -> None:
    attached = Attached(frozenset({"shop", MESH_PROJECT}))
    assert not made(data, attached=attached).is_node_mode


def test_of_a_container_that_is_being_recreated_the_running_one_counts() -> None:
    old = made(inspected(running=False, Id="d" * 64, Name="/x_shop-web-2"))
    new = made(inspected())
    for order in ([old, new], [new, old]):
        (workload,) = desired_state(order, RUN, group="shop/web-2").workloads
        assert workload.id == "c" * 64


def test_only_the_meshs_own_pod_is_a_hosts_proxy() -> None:
    labels = {
        LABEL_ROLE: "pod",
        LABEL_KIND: "node",
        LABEL_WORKLOAD: "dockermesh/node-1",
    }
    for project, kind in (
        (MESH_PROJECT, WorkloadKind.NODE),
        ("shop", WorkloadKind.SIDECAR),
    ):
        data = inspected(labels | {COMPOSE_PROJECT: project})
        data["HostConfig"]["Mounts"] = [{"Target": TRUST_PATH}]
        (workload,) = desired_state([parse_container(data)], RUN).workloads
        assert workload.kind is kind


async def test_of_an_image_that_is_gone_nothing_is_believed() -> None:
    async def gone(image: str) -> None:
        return None

    data = inspected({LABEL_MODE: "node"}, env=("SERVICE_ACCOUNT=bank",))
    brought = await Images(gone).of(data)
    assert not made(data, brought, Attached()).is_node_mode
    (workload,) = desired_state([made(data, brought)], RUN).workloads
    assert workload.identity("t").service_account == "web"


async def test_what_is_attached_is_known_at_once(tmp_path: Path) -> None:
    file = AttachedFile(tmp_path)
    seen = asyncio.Event()
    following = asyncio.create_task(file.follow(seen.set))
    try:
        await asyncio.sleep(0)
        AttachedFile(tmp_path).write(Attached().with_these(projects=["shop"]))
        await asyncio.wait_for(seen.wait(), SLACK)
        assert file.now == SHOP
    finally:
        following.cancel()


def test_a_damaged_file_says_what_it_said_last(tmp_path: Path) -> None:
    file = AttachedFile(tmp_path)
    file.write(SHOP)
    (tmp_path / "attached.json").write_text(json.dumps({"projects": 3}))
    assert not file.read()
    assert file.now == SHOP
    assert AttachedFile(tmp_path).now == Attached(), "nobody is in it by accident"
