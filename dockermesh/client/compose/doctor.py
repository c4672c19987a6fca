"""What `doctor` looks at: each check says what it found, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dockermesh.client.compose import node
from dockermesh.client.compose.doctor_finding import Finding, Verdict
from dockermesh.client.compose.engine_limits import limits_of
from dockermesh.client.compose.engine_record import (
    STATE_FIX,
    elsewhere,
    record_of,
    state_home,
)
from dockermesh.client.compose.engine_socket import socket_on_host
from dockermesh.client.compose.host_ports import HostPorts
from dockermesh.client.compose.kept_proxies import FIX as KEPT_FIX
from dockermesh.client.compose.kept_proxies import running_on_kept
from dockermesh.client.compose.kernel_limits import FIX, watch_shortage
from dockermesh.client.compose.mesh_ports import MESH_PORTS, MeshPort, has_now
from dockermesh.client.compose.strayed import strayed
from dockermesh.client.compose.subnets import overlaps
from dockermesh.client.compose.telemetry import check_telemetry
from dockermesh.client.images.checks import check_folder, check_images
from dockermesh.client.images.mesh_images import registry_of
from dockermesh.client.mesh.local_certificates import away_warning
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.client.mesh.route import SEE_LOGS
from dockermesh.docker.compose import OLDEST, compose_command, run_compose
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.versions import COMPOSE, ENGINE, VersionRange, parse_version
from dockermesh.errors import DockermeshError
from dockermesh.model.contract import (
    CONTROL_PLANE_CONTAINER,
    LABEL_ROLE,
    MESH_PROJECT,
)
from dockermesh.model.registries import foreign_servers

HOST_FIX = (
    "make room, or the control plane's volume writable (`df`, `docker system df`), and see that the"
    " engine runs (`docker info`)"
)
METRICS_FIX = (
    "leave out labels that clients choose by a Telemetry; see docs/telemetry.md"
)
OLDEST_ENGINE = (20, 10)


def check_up(registry: str = "") -> list[Finding]:
    """All findings, for a mesh with this registry (empty: the one that runs, else the
    environment's). What needs the engine is left out when there is none, which is a finding itself.
    """
    findings = [*_compose(), *_state()]
    try:
        engine = LocalEngine()
    except DockermeshError as error:
        where = f"{error.where}: " if error.where else ""
        failed = Finding("engine", Verdict.FAILED, f"{where}{error.what}", error.fix)
        return [failed, *findings, *_kernel()]

    registry = registry or registry_of(engine, os.environ)
    checks: list[Callable[[LocalEngine], Iterable[Finding]]] = [
        _engine,
        _where,
        _images(registry),
        _mesh,
        _habits,
        check_telemetry,
        _ports(registry),
        _networks,
    ]
    if engine.address.is_socket:
        # Of another host's kernel, nothing is known here.
        findings += _kernel()
        checks.insert(2, _watches)
        checks.append(_node_mode)
    for check in checks:
        try:
            findings += check(engine)
        except DockermeshError as error:
            findings.append(
                Finding(
                    check.__name__.strip("_"),
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
        yield from _kept(engine)
        return

    missing = client.readiness()
    if missing:
        ended = client.last_error()
        fix = ended.fix if ended and ended.fix else SEE_LOGS
        yield Finding("mesh", Verdict.FAILED, f"not ready: {missing}", fix)
        yield from _kept(engine)
        return

    report = client.workloads()
    yield from _reported(report)
    if any(workload["xds"] != "SYNCED" for workload in report["workloads"]):
        yield from _kept(engine)


def _kept(engine: LocalEngine) -> Iterator[Finding]:
    if found := running_on_kept(engine):
        yield Finding("proxies", Verdict.WARNING, found, KEPT_FIX)


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
    for problem in report.get("host") or ():
        yield Finding("host", Verdict.WARNING, problem, HOST_FIX)
    for sentence in report.get("metrics") or ():
        yield Finding("metrics", Verdict.WARNING, sentence, METRICS_FIX)
    for refusal in report.get("refused") or ():
        yield Finding(
            "registration", Verdict.WARNING, refusal["sentence"], refusal["fix"]
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


def _habits(engine: LocalEngine) -> Iterator[Finding]:
    for sentence in strayed(engine):
        what, _, fix = sentence.partition("; ")
        yield Finding("project", Verdict.WARNING, what, fix)


def _images(registry: str) -> Callable[[LocalEngine], Iterable[Finding]]:
    def images(engine: LocalEngine) -> Iterator[Finding]:
        yield from check_images(engine, registry)

    return images


def _ports(registry: str) -> Callable[[LocalEngine], Iterable[Finding]]:
    servers = {f"{MESH_PROJECT}-{name}" for name in foreign_servers(registry)}
    wanted = [port for port in MESH_PORTS if port.container not in servers]

    def ports(engine: LocalEngine) -> Iterator[Finding]:
        yield from _ports_of(engine, wanted)

    return ports


def _ports_of(engine: LocalEngine, wanted: Iterable[MeshPort]) -> Iterator[Finding]:
    running = engine.inspect(CONTROL_PLANE_CONTAINER)
    is_up = running is not None and running["State"]["Running"]
    host = HostPorts(engine)

    for port in wanted:
        if is_up:
            if (number := has_now(engine, port)) is not None:
                detail = f"{port.what}: 127.0.0.1:{number}"
                yield Finding("port", Verdict.OK, detail)
            continue

        number_text = port.number(os.environ)
        is_number = number_text.isdigit()
        why = host.taken("127.0.0.1", int(number_text)) if is_number else ""
        if not why:
            yield Finding("port", Verdict.OK, f"{number_text} is free")
        elif os.environ.get(port.variable):
            fix = f"stop what listens there (`ss -ltnp`), or unset {port.variable}"
            detail = f"{number_text} is taken ({why})"
            yield Finding("port", Verdict.FAILED, detail, fix)
        else:
            detail = (
                f"{number_text} is taken ({why}): {port.what} gets the next free one"
            )
            yield Finding("port", Verdict.OK, detail)


def _networks(engine: LocalEngine) -> Iterator[Finding]:
    found = [
        Finding("network", Verdict.FAILED, detail, fix)
        for detail, fix in overlaps(engine.subnets(), os.environ)
    ]
    yield from found or [
        Finding("network", Verdict.OK, "no other network is in the way of the mesh's")
    ]


def _node_mode(engine: LocalEngine) -> Iterator[Finding]:
    folder = node.namespaces_folder()
    shared = node.is_shared(folder, Path("/proc/self/mountinfo").read_text())
    if shared is None:
        return
    if shared:
        detail = f"node mode: {folder} is on a shared mount"
        yield Finding("node", Verdict.OK, detail)
        return
    is_used = node.is_there(engine)
    verdict = Verdict.WARNING if is_used else Verdict.OK
    detail = f"{folder} is on no shared mount, which node mode takes"
    yield Finding("node", verdict, detail, node.share_fix(folder))
