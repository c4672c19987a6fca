"""Compose's last words, as the engine's versions say them, lead to the setting that helps."""

from __future__ import annotations

import pytest

from dockermesh.client.compose.compose_failure import reason, remedy

_PROXY = (
    "Error response from daemon: driver failed programming external connectivity on endpoint {}"
    " (a0): "
)
USERLAND = (
    _PROXY + "Error starting userland proxy: listen {} {}: bind: address already in use"
)
ALLOCATED = _PROXY + "Bind for {} failed: port is already allocated"


@pytest.mark.parametrize(
    ("stderr", "env", "words"),
    [
        (
            USERLAND.format("dockermesh-control-plane", "tcp4", "127.0.0.1:8080"),
            {},
            "DOCKERMESH_API_PORT",
        ),
        (
            ALLOCATED.format("dockermesh-control-plane", "127.0.0.1:15014"),
            {},
            "DOCKERMESH_DEBUG_PORT",
        ),
        (ALLOCATED.format("dockermesh-consul", "127.0.0.1:8500"), {}, "CONSUL_PORT"),
        (
            ALLOCATED.format("dockermesh-consul", "127.0.0.1:9500"),
            {"CONSUL_PORT": "9500"},
            "CONSUL_PORT",
        ),
        (
            USERLAND.format("dockermesh-consul", "udp4", "172.28.0.1:53"),
            {},
            "DOCKER_GATEWAY=127.0.0.1:100",
        ),
        (ALLOCATED.format("shop-gateway-pod-1", "0.0.0.0:8080"), {}, "--gateway-port"),
        ("Error: pull access denied for nosuch", {}, "the image can't be had"),
        ("Error: something else", {}, "dockermesh down"),
    ],
)
def test_the_next_step_names_the_setting(
    stderr: str, env: dict[str, str], words: str
) -> None:
    assert words in remedy(stderr, env)


def test_the_telling_lines_are_kept() -> None:
    assert (
        reason(" Network x  Creating\n Container y  Error\nno space left\n", 1)
        == "Container y  Error"
    )
    assert reason("only this\n", 1) == "only this"
    assert reason("", 17) == "exit status 17"
