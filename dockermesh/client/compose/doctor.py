"""What `doctor` looks at: each check says what it found, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dockermesh.client.compose.bring_up import STATE_FIX, state_home
from dockermesh.client.compose.compose_failure import mesh_ports
from dockermesh.client.compose.doctor_finding import Finding, Verdict
from dockermesh.client.compose.engine_limits import limits_of
from dockermesh.client.compose.engine_record import elsewhere, record_of
from dockermesh.client.compose.engine_socket import socket_on_host
from dockermesh.client.compose.host_ports import HostPorts
from dockermesh.client.compose.kernel_limits import FIX, watch_shortage
from dockermesh.client.compose.subnets import overlaps
from dockermesh.client.images.checks import check_folder, check_images
from dockermesh.client.mesh.local_certificates import away_warning
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.client.mesh.route import SEE_LOGS
from dockermesh.docker.compose import OLDEST, compose_command, run_compose
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.versions import COMPOSE, ENGINE, VersionRange, parse_version
from dockermesh.errors import DockermeshError
from dockermesh.model.contract import CONTROL_PLANE_CONTAINER, LABEL_KIND, LABEL_ROLE

OLDEST_ENGINE = (20, 10)
_GATEWAY_PORT = "30080"


def check_up() -> list[Finding]:
    """All findings. What needs the engine is left out when there is none, which is a finding
    itself.
    """
    findings = [*_compose(), *_state()]
    try:
        engine = LocalEngine()
    except DockermeshError as error:
        where = f"{error.where}: " if error.where else ""
        failed = Finding("engine", Verdict.FAILED, f"{where}{error.what}", error.fix)
        return [failed, *findings, *_kernel()]

    checks = [_engine, _where, check_images, _mesh, _ports, _networks]
    if engine.address.is_socket:
        # Of another host's kernel, nothing is known here.
        findings += _kernel()
        checks.insert(2, _watches)
    for check in checks:
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


def untested(engine: LocalEngine) -> str:
    """Which of engine and Compose are other versions than those the mesh was tested with; empty
    when both are among them.
    """
    notes = (ENGINE.note(_engine_version(engine)), COMPOSE.note(_compose_version()))
    return "; ".join(note for note in notes if note)


def _engine_version(engine: LocalEngine) -> str:
    return str(engine.version().get("Version", "0"))


def _compose_version() -> str:
    return run_compose(["version", "--short"]).stdout.strip()


def _engine(engine: LocalEngine) -> Iterator[Finding]:
    version = _engine_version(engine)
    found = parse_version(version)
    if found is not None and found < OLDEST_ENGINE:
        wanted = ".".join(map(str, OLDEST_ENGINE))
        fix = f"install Docker {wanted} or newer"
        yield Finding("engine", Verdict.FAILED, f"Docker {version} is too old", fix)
    else:
        yield _known("engine", ENGINE, version, f"Docker {version}")


def _where(engine: LocalEngine) -> Iterator[Finding]:
    info = engine.info()
    yield Finding("address", Verdict.OK, f"{engine.address}, called {info.get('Name')}")
    for limit in limits_of(info, engine.address):
        yield Finding(limit.kind, Verdict.WARNING, limit.what, limit.fix)

    try:
        path = socket_on_host(engine, os.environ)
    except DockermeshError as error:
        yield Finding(
            "registrar", Verdict.FAILED, str(error).partition("\n")[0], error.fix
        )
    else:
        yield Finding(
            "registrar", Verdict.OK, f"the engine's socket on its host is {path}"
        )

    for other in elsewhere(state_home(), record_of(engine, "")):
        detail = f"{other.project} was brought up on another engine, {other.url}"
        yield Finding("project", Verdict.WARNING, detail, f"`{other.how('ps')}`")


def _compose() -> Iterator[Finding]:
    try:
        command = compose_command()
    except DockermeshError as error:
        yield Finding("compose", Verdict.FAILED, error.what, error.fix)
        return
    version = _compose_version()
    wanted = ".".join(map(str, OLDEST))
    yield _known(
        "compose", COMPOSE, version, f"{' '.join(command)} {version} (needs {wanted})"
    )


def _known(name: str, tested: VersionRange, version: str, detail: str) -> Finding:
    note = tested.note(version)
    if note:
        return Finding(
            name, Verdict.WARNING, note, "it should work; if not, tell us this version"
        )
    return Finding(name, Verdict.OK, f"{detail}, tested with {tested.range}")


def _kernel() -> Iterator[Finding]:
    tables = Path("/proc/net/ip_tables_names")
    nft = Path("/proc/sys/net/netfilter")

    if tables.exists() or nft.exists():
        yield Finding("kernel", Verdict.OK, "netfilter is there")
    elif Path("/proc/version").exists():
        yield Finding(
            "kernel",
            Verdict.WARNING,
            "netfilter is not loaded here",
            "modprobe nf_tables, as root",
        )


def _watches(engine: LocalEngine) -> Iterator[Finding]:
    proxies = len(engine.containers([f"{LABEL_ROLE}=proxy"]))
    if short := watch_shortage(max(proxies, 1)):
        yield Finding("inotify", Verdict.FAILED, short, FIX)


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
        ended = client.last_error()
        fix = ended.fix if ended and ended.fix else SEE_LOGS
        yield Finding("mesh", Verdict.FAILED, f"not ready: {missing}", fix)
        return

    yield from _reported(client.workloads())


def _reported(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What a control plane that is ready says of the rest."""
    if report["degraded"]:
        yield Finding(
            "registry",
            Verdict.WARNING,
            report["degraded"],
            "see `docker logs dockermesh-consul`",
        )

    for problem in report.get("config") or ():
        yield Finding(
            "config",
            Verdict.WARNING,
            problem,
            "see `docker logs dockermesh-control-plane`",
        )

    for warning in report.get("warnings") or ():
        yield Finding(
            "certificates", Verdict.WARNING, warning, "see `dockermesh ca status`"
        )
    late = [w["name"] for w in report["workloads"] if w["xds"] != "SYNCED"]

    if late:
        yield Finding(
            "proxies",
            Verdict.WARNING,
            f"not in sync: {', '.join(late)}",
            "see `dockermesh ps`",
        )
    else:
        yield Finding(
            "mesh", Verdict.OK, f"ready, {len(report['workloads'])} proxies in sync"
        )


def _ports(engine: LocalEngine) -> Iterator[Finding]:
    running = engine.inspect(CONTROL_PLANE_CONTAINER)
    is_up = running is not None and running["State"]["Running"]
    # While the mesh is up, its ports are taken by itself.
    moved_by = (
        {}
        if is_up
        else {number: f"set {variable}" for variable, number in mesh_ports(os.environ)}
    )
    host = HostPorts(engine)

    for port, other in (
        *moved_by.items(),
        (_GATEWAY_PORT, "choose another with --gateway-port"),
    ):
        why = host.taken("127.0.0.1", int(port)) if port.isdigit() else ""
        if not why:
            yield Finding("port", Verdict.OK, f"{port} is free")
        elif port == _GATEWAY_PORT and engine.containers([f"{LABEL_KIND}=router"]):
            yield Finding("port", Verdict.OK, f"{port} is the gateway's")
        else:
            fix = f"stop what listens there (`ss -ltnp`), or {other}"
            yield Finding("port", Verdict.FAILED, f"{port} is taken ({why})", fix)


def _networks(engine: LocalEngine) -> Iterator[Finding]:
    found = [
        Finding("network", Verdict.FAILED, detail, fix)
        for detail, fix in overlaps(engine.subnets(), os.environ)
    ]
    yield from found or [
        Finding("network", Verdict.OK, "no other network is in the way of the mesh's")
    ]
