"""What `doctor` looks at: each check says what it found, and how to mend it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from dockermesh.app.bring_up import STATE_FIX, state_home
from dockermesh.app.compose_failure import mesh_ports
from dockermesh.app.finding import Finding, Verdict
from dockermesh.app.images.checks import check_folder, check_images
from dockermesh.app.local_certificates import away_warning
from dockermesh.app.mesh_client import CONTAINER, MeshClient
from dockermesh.app.subnets import overlaps
from dockermesh.engine.compose import OLDEST, compose_command, run_compose
from dockermesh.engine.local import LocalEngine
from dockermesh.errors import DockermeshError

OLDEST_ENGINE = (20, 10)
_GATEWAY_PORT = "30080"


def check_up() -> list[Finding]:
    """All findings. What needs the engine is left out when there is none, which is a finding
    itself.
    """
    findings = [*_compose(), *_kernel(), *_state()]
    try:
        engine = LocalEngine()
    except DockermeshError as error:
        return [Finding("engine", Verdict.FAILED, error.what, error.fix), *findings]
    for check in (_engine, check_images, _mesh, _ports, _networks):
        try:
            findings += check(engine)
        except DockermeshError as error:
            findings.append(
                Finding(
                    check.__name__.removeprefix("check").strip("_"),
                    Verdict.FAILED,
                    error.what,
                    error.fix,
                )
            )
    return findings


def _engine(engine: LocalEngine) -> Iterator[Finding]:
    version = str(engine.version().get("Version", "0"))
    numbers = tuple(
        int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:2]
    )
    if numbers >= OLDEST_ENGINE:
        yield Finding("engine", Verdict.OK, f"Docker {version}")
    else:
        wanted = ".".join(map(str, OLDEST_ENGINE))
        yield Finding(
            "engine",
            Verdict.FAILED,
            f"Docker {version} is too old",
            f"install Docker {wanted} or newer",
        )
    info = engine.info()
    if "name=rootless" in (info.get("SecurityOptions") or ()):
        yield Finding(
            "engine mode",
            Verdict.WARNING,
            "rootless",
            "capture needs a kernel that allows iptables there",
        )


def _compose() -> Iterator[Finding]:
    try:
        command = compose_command()
    except DockermeshError as error:
        yield Finding("compose", Verdict.FAILED, error.what, error.fix)
        return
    version = run_compose(["version", "--short"]).stdout.strip()
    wanted = ".".join(map(str, OLDEST))
    yield Finding("compose", Verdict.OK, f"{' '.join(command)} {version} (needs {wanted})")


def _kernel() -> Iterator[Finding]:
    tables = Path("/proc/net/ip_tables_names")
    nft = Path("/proc/sys/net/netfilter")
    if tables.exists() or nft.exists():
        yield Finding("kernel", Verdict.OK, "netfilter is there")
    elif Path("/proc/version").exists():
        yield Finding(
            "kernel", Verdict.WARNING, "netfilter is not loaded here", "modprobe nf_tables, as root"
        )
    watches = Path("/proc/sys/fs/inotify/max_user_instances")
    if watches.exists() and int(watches.read_text()) < 128:
        yield Finding(
            "inotify",
            Verdict.WARNING,
            "few instances for many proxies",
            "sysctl fs.inotify.max_user_instances=1024",
        )


def _state() -> Iterator[Finding]:
    try:
        yield check_folder(state_home(), STATE_FIX)
    except DockermeshError as error:
        yield Finding("state", Verdict.FAILED, error.what, error.fix)


def _mesh(engine: LocalEngine) -> Iterator[Finding]:
    try:
        client = MeshClient(engine)
    except DockermeshError:
        alone = away_warning(engine)
        yield Finding(
            "mesh",
            Verdict.FAILED if alone else Verdict.OK,
            alone or "not running",
            "run `dockermesh up`",
        )
        return
    missing = client.readiness()
    if missing:
        yield Finding(
            "mesh", Verdict.FAILED, f"not ready: {missing}", f"see `docker logs {CONTAINER}`"
        )
        return
    report = client.workloads()
    if report["degraded"]:
        yield Finding(
            "registry", Verdict.WARNING, report["degraded"], "see `docker logs dockermesh-consul`"
        )
    for warning in report.get("warnings") or ():
        yield Finding("certificates", Verdict.WARNING, warning, "see `dockermesh ca status`")
    late = [w["name"] for w in report["workloads"] if w["xds"] != "SYNCED"]
    if late:
        yield Finding(
            "proxies", Verdict.WARNING, f"not in sync: {', '.join(late)}", "see `dockermesh ps`"
        )
    else:
        yield Finding("mesh", Verdict.OK, f"ready, {len(report['workloads'])} proxies in sync")


def _ports(engine: LocalEngine) -> Iterator[Finding]:
    running = engine.inspect(CONTAINER)
    is_up = running is not None and running["State"]["Running"]
    moved_by = (
        {} if is_up else {number: f"set {variable}" for variable, number in mesh_ports(os.environ)}
    )
    for port, other in (*moved_by.items(), (_GATEWAY_PORT, "choose another with --gateway-port")):
        if not port.isdigit() or _is_free(int(port)):
            yield Finding("port", Verdict.OK, f"{port} is free")
        elif port == _GATEWAY_PORT and engine.containers(["dockermesh.io/kind=router"]):
            yield Finding("port", Verdict.OK, f"{port} is the gateway's")
        else:
            fix = f"stop what listens there (`ss -ltnp`), or {other}"
            yield Finding("port", Verdict.FAILED, f"{port} is taken", fix)


def _networks(engine: LocalEngine) -> Iterator[Finding]:
    found = [
        Finding("network", Verdict.FAILED, detail, fix)
        for detail, fix in overlaps(engine.subnets(), os.environ)
    ]
    yield from found or [
        Finding("network", Verdict.OK, "no other network is in the way of the mesh's")
    ]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
