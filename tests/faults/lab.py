"""A machine of the suite's own, inside this one: a network, a process tree and mounts that nobody
else sees, and that end with the process.

Invariant: nothing outside is touched, and nothing is left over, however the suite ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HOST = "10.77.0.1"
"""The host's address on the mesh network."""
PREFIX = "10.77"
_INSIDE = "DOCKERMESH_FAULTS_INSIDE"
_TOOLS = ("ip", "unshare", "setpriv", "iptables", "consul")


def missing() -> str:
    """What keeps the suite from running here; empty if nothing does."""
    if os.geteuid() != 0:
        return "root is needed, for network namespaces"
    lacking = [tool for tool in _TOOLS if not shutil.which(tool)]
    if lacking:
        return f"not installed: {', '.join(lacking)} -> run: scripts/setup"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {probe.stderr.strip()}" if probe.returncode else ""


def enter() -> None:
    """Become a process in a lab of its own, unless it is one already."""
    if os.environ.get(_INSIDE):
        _furnish()
        return
    os.environ[_INSIDE] = "1"
    flags = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *flags, sys.executable, *sys.argv])


def _furnish() -> None:
    folder = Path("/run/netns")
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "none", str(folder))
    resolver = folder / "resolv.conf"
    resolver.write_text(f"nameserver {HOST}\noptions timeout:1 attempts:2\n")
    run("mount", "--bind", str(resolver), "/etc/resolv.conf")
    run("ip", "link", "set", "lo", "up")
    # An address of its own: else it is that of a port, and changes with every pod, unnoticed by
    # those who know the one before for a minute.
    run("ip", "link", "add", "mesh", "address", "02:00:0a:4d:00:01", "type", "bridge")
    run("ip", "addr", "add", f"{HOST}/16", "dev", "mesh")
    run("ip", "link", "set", "mesh", "up")


def add_address(address: str) -> None:
    """Give the host one more address on the mesh network."""
    run("ip", "addr", "add", f"{address}/16", "dev", "mesh")


def add_network(name: str, address: str) -> None:
    """A pod's network, on the mesh network."""
    outer = f"v{address.replace('.', '')[-8:]}"
    # By its address, or whoever knew the one that had it before talks past it for a minute.
    hardware = ":".join(["02", "00", *(f"{int(p):02x}" for p in address.split("."))])
    run("ip", "netns", "add", name)
    run(
        *("ip", "link", "add", outer, "type", "veth"),
        *("peer", "name", "eth0", "netns", name, "address", hardware),
    )
    run("ip", "link", "set", outer, "master", "mesh", "up")
    for command in (
        "link set lo up",
        f"addr add {address}/16 dev eth0",
        "link set eth0 up",
        f"route add default via {HOST}",
    ):
        run("ip", "-n", name, *command.split())


def remove_network(name: str) -> None:
    """The pod's network goes, and its wire with it."""
    run("ip", "-n", name, "link", "del", "eth0")
    run("ip", "netns", "del", name)


def run(*command: str) -> None:
    """A command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
