"""What the registry should hold for a set of containers: the pure centre of the registrar.

Invariant: a meshed app is listed only while traffic can reach it, that is while its pod and a proxy
run, the app runs, and both are in the pod's present network. Containers that were told to stop are
treated as gone already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from dockermesh.model import (
    Protocol,
    ProxyMode,
    ServedPort,
    Workload,
    WorkloadKind,
    contract,
)
from dockermesh.registrar.checks import HealthStatus, all_of
from dockermesh.registrar.claims import Claim, claims_of, holders_of
from dockermesh.registrar.container import Container
from dockermesh.registrar.mapping import MappingFinding, Registration, map_container
from dockermesh.registrar.node_mode import namespace_path
from dockermesh.registrar.options import Options


@dataclass(frozen=True, slots=True)
class Desired:
    """Registrations and workloads, what was left out and why, and ids of dead containers whose
    entries stay.
    """

    registrations: tuple[Registration, ...] = ()
    workloads: tuple[Workload, ...] = ()
    skipped: tuple[MappingFinding, ...] = ()
    retained: frozenset[str] = frozenset()


def desired_state(
    containers: Iterable[Container],
    options: Options,
    *,
    stopping: Collection[str] = (),
    tokens: Mapping[str, str] = MappingProxyType({}),
    answers: Mapping[str, HealthStatus] = MappingProxyType({}),
    holders: Mapping[str, Claim] | None = None,
    group: str = "",
) -> Desired:
    """What the registry should hold, for one `group` if given; the rest of the containers then is
    context.

    `stopping` are ids of containers that got their stop signal, `tokens` the attested digests by
    pod incarnation, `answers` what came of the checks that the registrar asks itself, by the
    registration's id, `holders` who has an id that several containers of the host may ask for
    (None: these containers are all).
    """
    scene = _Scene(sorted(containers, key=lambda c: (c.name, c.id)), options, stopping)
    if holders is None:
        holders = holders_of(claims_of(scene.containers, options, stopping=stopping))
    registrations, skipped = scene.registrations(group, answers, holders)
    workloads = scene.workloads(group, tokens)
    retained = frozenset(c.id for c in scene.containers if _retained(c, options))
    return Desired(registrations, workloads, skipped, retained)


class _Scene:
    """Containers, with what belongs together."""

    def __init__(
        self, containers: list[Container], options: Options, stopping: Collection[str]
    ) -> None:
        self.containers = containers
        self._options = options
        self._stopping = stopping
        self._by_id = {c.id: c for c in containers}
        self._members = _members(containers)

    def registrations(
        self,
        group: str,
        answers: Mapping[str, HealthStatus],
        holders: Mapping[str, Claim],
    ) -> tuple[tuple[Registration, ...], tuple[MappingFinding, ...]]:
        """Those of all that serve, with their health, and what was left out."""
        found: dict[str, Registration] = {}
        skipped: list[MappingFinding] = []

        for container in self.containers:
            if container.role not in ("app", "") or group not in ("", container.group):
                continue
            owner = self._by_id.get(container.joined)
            mapped, reasons = map_container(container, owner, self._options)
            skipped += reasons
            if not serves(container, owner, self._of(container.joined), self._stopping):
                continue

            for made in mapped:
                given, lost = _with_its_id(made, container, holders)
                skipped += lost
                if given is None:
                    continue
                health = all_of(given.health, given.own_check, answers.get(given.id))
                found[given.id] = replace(given, health=health)

        return tuple(found.values()), tuple(skipped)

    def workloads(self, group: str, tokens: Mapping[str, str]) -> tuple[Workload, ...]:
        """A record per pod, and per container in node mode.

        One that is down, or not attested yet, keeps its record without a token: its services then
        still exist, and requests to them wait for it instead of failing.
        """
        ours = [c for c in self.containers if group in ("", c.group)]
        # A container that is being recreated exists twice; the running one counts.
        in_node_mode = {
            c.group: c
            for c in sorted(ours, key=lambda c: c.state.running)
            if c.is_node_mode
        }
        return (
            *(
                _workload(pod, self._of(pod.id), _token(pod, tokens), self._options)
                for pod in ours
                if pod.role == "pod"
            ),
            *(_node_workload(c, self._options) for c in in_node_mode.values()),
        )

    def _of(self, owner: str) -> list[Container]:
        return self._members.get(owner, [])


def _with_its_id(
    made: Registration, container: Container, holders: Mapping[str, Claim]
) -> tuple[Registration | None, tuple[MappingFinding, ...]]:
    """The registration under the id that is the container's to have, and whom it gave way to."""
    holder = holders.get(made.id)
    if holder is None or holder.container_id == container.id:
        return made, ()

    own = holders.get(made.own_id)
    is_free = own is None or own.container_id == container.id
    what = f"registered as {made.own_id}" if is_free else "not registered"
    reason = f"service id {made.id} is that of container {holder.name}; {what}"
    given = made.giving_way(f"container {holder.name}") if is_free else None
    return given, (MappingFinding(container.name, reason, is_warning=True),)


def _token(pod: Container, tokens: Mapping[str, str]) -> str:
    return tokens.get(pod.incarnation, "") if pod.state.running else ""


def serves(
    container: Container,
    owner: Container | None,
    members: Collection[Container],
    stopping: Collection[str],
) -> bool:
    """Whether traffic can reach the container."""
    if not _alive(container, stopping):
        return False
    if not container.joined:
        return True
    if owner is None or not _alive(owner, stopping) or is_stranded(container, owner):
        return False

    # Outside the mesh nobody has one: what joined another container's network serves all the same.
    proxies = [m for m in members if m.role == "proxy"]
    return not proxies or any(
        _lets_through(proxy, owner, stopping) for proxy in proxies
    )


def _lets_through(proxy: Container, pod: Container, stopping: Collection[str]) -> bool:
    return _alive(proxy, stopping) and not is_stranded(proxy, pod)


def is_stranded(member: Container, owner: Container) -> bool:
    """Whether it runs in a network that is gone: its owner was started again after it."""
    return (
        member.state.running
        and owner.state.running
        and owner.state.started > member.state.started
    )


def _alive(container: Container, stopping: Collection[str]) -> bool:
    return (
        container.state.running
        and not container.state.restarting
        and container.id not in stopping
    )


def _retained(container: Container, options: Options) -> bool:
    # registrator's `-deregister on-success`: exit code 0, or the bit for "ended by a signal",
    # removes.
    code = container.state.exit_code
    return (
        options.deregister == "on-success"
        and container.state.status == "exited"
        and code != 0
        and not code & 128
    )


def _members(containers: Iterable[Container]) -> dict[str, list[Container]]:
    members: dict[str, list[Container]] = {}
    for container in containers:
        if container.joined:
            members.setdefault(container.joined, []).append(container)
    return members


def _workload(
    pod: Container, members: Iterable[Container], token: str, options: Options
) -> Workload:
    # A container that is being recreated exists twice; the running one counts.
    by_role = {m.role: m for m in sorted(members, key=lambda m: m.state.running)}
    app, proxy = by_role.get("app"), by_role.get("proxy")
    registrations = map_container(app, pod, options)[0] if app else ()
    said = pod.labels.get
    made = replace(
        _served(pod, registrations, options),
        kind=_kind(pod),
        aliases=_listed(said(contract.LABEL_ALIASES, "")),
        token_sha256=token,
        config=said(contract.LABEL_CONFIG, ""),
        app_container=app.id if app else "",
        proxy_container=proxy.id if proxy else "",
        bridges=pod.bridges if _kind(pod) is WorkloadKind.GATEWAY else (),
    )
    return _dated(made, pod)


def _node_workload(container: Container, options: Options) -> Workload:
    registrations, _ = map_container(container, None, options)
    made = replace(
        _served(container, registrations, options),
        app_container=container.id,
        mode=ProxyMode.NODE,
        network_namespace=namespace_path(container),
    )
    return _dated(made, container)


def _served(
    owner: Container, registrations: Sequence[Registration], options: Options
) -> Workload:
    """What a workload is called, where it is, and what it serves; `owner` has its network."""
    said = owner.labels.get
    service = (
        registrations[0].name if registrations else said(contract.LABEL_SERVICE, "")
    )
    return Workload(
        id=owner.id,
        name=said(contract.LABEL_WORKLOAD, ""),
        service=service,
        namespace=said(contract.LABEL_NAMESPACE) or "default",
        service_account=owner.account(service),
        address=owner.address(said(contract.LABEL_NETWORK) or options.network),
        host=options.owner,
        labels=MappingProxyType(json_labels(said(contract.LABEL_LABELS, ""))),
        # From the app's definition, so that the ports do not change while it is down or comes up.
        ports=tuple(
            ServedPort(r.name, r.port, r.protocol.value) for r in registrations
        ),
        project=said(contract.COMPOSE_PROJECT, ""),
        published=_published(owner),
        probed=_probed(registrations),
        protocol_rules=MappingProxyType(
            {
                str(r.port): r.selection.rule.value
                for r in registrations
                if r.protocol is not Protocol.UDP
            }
        ),
    )


def _dated(workload: Workload, owner: Container) -> Workload:
    since = dict.fromkeys(sorted(workload.served_names()), owner.created)
    return replace(workload, since=MappingProxyType(since))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _probed(registrations: Iterable[Registration]) -> tuple[int, ...]:
    return tuple(sorted({r.port for r in registrations if _is_plain(r)}))


def _published(pod: Container) -> tuple[int, ...]:
    keys = (
        key.split("/")
        for key, binding in pod.bindings.items()
        if binding is not None and binding.port
    )
    return tuple(
        sorted({int(number) for number, *protocol in keys if protocol != ["udp"]})
    )


def _is_plain(registration: Registration) -> bool:
    """Whether its check asks the app itself, in plaintext: one that only connects is content with
    the proxy.
    """
    check = registration.check or registration.own_check
    if check is None:
        return False
    if "GRPC" in check:
        return not check.get("GRPCUseTLS")
    # The registrar has a certificate for its own.
    return registration.own_check is None and str(check.get("HTTP", "")).startswith(
        "http:"
    )


def _kind(pod: Container) -> WorkloadKind:
    said = pod.labels.get(contract.LABEL_KIND)
    if said == WorkloadKind.GATEWAY:
        return WorkloadKind.GATEWAY
    # It gets the certificates of every workload of its host that is in node mode.
    is_meshs = pod.labels.get(contract.COMPOSE_PROJECT) == contract.MESH_PROJECT
    is_node = said == WorkloadKind.NODE and is_meshs
    return WorkloadKind.NODE if is_node else WorkloadKind.SIDECAR


def json_labels(text: str) -> dict[str, str]:
    """The labels in a JSON object; empty when it is none."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
