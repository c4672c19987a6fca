"""The command that leads to an engine by ssh."""

from __future__ import annotations

import pytest

from dockermesh.docker.ssh import ssh_command


@pytest.mark.parametrize(
    ("url", "end"),
    [
        ("ssh://VM", ["-T", "--", "VM", "docker", "system", "dial-stdio"]),
        (
            "ssh://me@h:23",
            ["-l", "me", "-p", "23", "--", "h", "docker", "system", "dial-stdio"],
        ),
        ("ssh://[::1]:2", ["-p", "2", "--", "::1", "docker", "system", "dial-stdio"]),
        (
            "ssh://h/x.sock",
            ["--", "h", "docker", "--host", "unix:///x.sock", "system", "dial-stdio"],
        ),
        (
            "ssh://-oProxyCommand=x",
            ["--", "-oProxyCommand=x", "docker", "system", "dial-stdio"],
        ),
    ],
)
def test_user_port_and_socket_come_from_the_address(url: str, end: list[str]) -> None:
    assert ssh_command(url)[-len(end) :] == end
