"""Turns a capture configuration into `iptables-restore` text: the IPv4 tables, then the IPv6 ones.

Invariant: the order of rules inside a chain is the meaning. What is captured is what istio-iptables
captures for the same configuration; with `PodOptions` the built-in chains get nothing but jumps to
chains named ISTIO_*, so that everything of ours can be found and replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from dockermesh.errors import InputError
from dockermesh.inject.capture.config import CaptureConfig, Mode
from dockermesh.model.contract import (
    DNS_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
)

BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
TABLE_ORDER = ("nat", "mangle", "raw", "filter")
SIDECAR_HOLDS = (OUTBOUND_PORT, INBOUND_PORT, DNS_PORT)
# Marks what goes from the proxy to its own app by the pod's address, under TPROXY.
OUTBOUND_MARK = 1338
MAX_MULTIPORT = 15


@dataclass(frozen=True, slots=True)
class PodOptions:
    """What a pod of this mesh needs beside Istio's rules.

    `resolver` is Docker's DNS server inside the pod; at `hold_ports` new connections wait while
    nothing listens.
    """

    resolver: str = "127.0.0.11"
    hold_ports: tuple[int, ...] = SIDECAR_HOLDS


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What a joined process needs beside Istio's rules, on a machine that others use, too.

    `address` is the machine's on the mesh's network; what others than the proxy ask `name_servers`
    goes to the proxy.
    """

    address: str
    name_servers: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class _Family:
    """What differs between the IP versions."""

    version: int
    loopback: str
    passthrough: str  # the source address of the proxy's connections to its app
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    dns_servers: tuple[str, ...]


@dataclass(slots=True)
class _Rules:
    """Chains by table in the order in which they will be written."""

    tables: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def chain(self, table: str, chain: str) -> list[str]:
        return self.tables.setdefault(table, {}).setdefault(chain, [])

    def add(self, table: str, chain: str, *rules: str) -> None:
        self.chain(table, chain).extend(rules)

    def text(self, *, jumps_first: bool) -> str:
        return "".join(
            _table_text(name, self.tables[name], jumps_first)
            for name in TABLE_ORDER
            if name in self.tables
        )


def _table_text(name: str, chains: dict[str, list[str]], jumps_first: bool) -> str:
    lines = [
        f"*{name}",
        *(f":{chain} - [0:0]" for chain in chains if chain not in BUILT_IN),
    ]
    for chain, rules in chains.items():
        if chain in BUILT_IN and jumps_first:
            # Docker's own jump is already there, and the first match wins.
            lines += [
                f"-I {chain} {place} {rule}"
                for place, rule in enumerate(rules, start=1)
            ]
        else:
            lines += [f"-A {chain} {rule}" for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


def _inbound_redirect(rules: _Rules, config: CaptureConfig) -> None:
    rules.add("nat", "PREROUTING", "-p tcp -j ISTIO_INBOUND")
    if config.inbound_include.every:
        rules.add(
            "nat",
            "ISTIO_INBOUND",
            *(f"-p tcp --dport {p} -j RETURN" for p in config.inbound_exclude.listed),
        )
        rules.add("nat", "ISTIO_INBOUND", "-p tcp -j ISTIO_IN_REDIRECT")
    for port in config.inbound_include.listed:
        rules.add("nat", "ISTIO_INBOUND", f"-p tcp --dport {port} -j ISTIO_IN_REDIRECT")


def _inbound_tproxy(rules: _Rules, config: CaptureConfig, family: _Family) -> None:
    established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT"
    rules.add(
        "mangle",
        "ISTIO_DIVERT",
        f"-j MARK --set-mark {config.tproxy_mark}",
        "-j ACCEPT",
    )
    rules.add(
        "mangle",
        "ISTIO_TPROXY",
        f"! -d {family.loopback} -p tcp -j TPROXY --tproxy-mark {config.tproxy_mark}/0xffffffff"
        f" --on-port {config.inbound_capture_port}",
    )
    rules.add("mangle", "PREROUTING", "-p tcp -j ISTIO_INBOUND")

    if config.inbound_include.every:
        rules.add(
            "mangle",
            "ISTIO_INBOUND",
            *(f"-p tcp --dport {p} -j RETURN" for p in config.inbound_exclude.listed),
        )
        rules.add(
            "mangle", "ISTIO_INBOUND", f"-p tcp {established}", "-p tcp -j ISTIO_TPROXY"
        )

    for port in config.inbound_include.listed:
        rules.add("mangle", "ISTIO_INBOUND", f"-p tcp --dport {port} {established}")
        rules.add("mangle", "ISTIO_INBOUND", f"-p tcp --dport {port} -j ISTIO_TPROXY")


def _tproxy_marks(rules: _Rules, config: CaptureConfig, family: _Family) -> None:
    """Keeps the proxy's transparent connections and the app's answers to them out of a second
    capture.
    """
    mark = config.tproxy_mark
    rules.add(
        "mangle", "PREROUTING", f"-p tcp -m mark --mark {mark} -j CONNMARK --save-mark"
    )
    rules.add("mangle", "OUTPUT", f"-p tcp -o lo -m mark --mark {mark} -j RETURN")
    owners = [f"--uid-owner {uid}" for uid in config.proxy_uids] + [
        f"--gid-owner {gid}" for gid in config.proxy_gids
    ]
    for owner in owners:
        match = f"! -d {family.loopback} -p tcp -o lo -m owner {owner}"
        rules.add("mangle", "OUTPUT", f"{match} -j MARK --set-mark {OUTBOUND_MARK}")

    rules.add(
        "mangle",
        "OUTPUT",
        f"-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark",
    )
    rules.chain("mangle", "ISTIO_INBOUND")[:0] = [
        f"-p tcp -m mark --mark {mark} -j RETURN",
        f"-p tcp -s {family.passthrough} -i lo -j RETURN",
        f"-p tcp -i lo -m mark ! --mark {OUTBOUND_MARK} -j RETURN",
    ]


def _own_traffic(rules: _Rules, config: CaptureConfig, family: _Family) -> None:
    """What the proxy sends goes out as it is, except to itself; what the app sends to itself stays
    local.
    """
    tunnel = config.inbound_tunnel_port
    # With DNS captured, port 53 is left to the rules below: a resolver may well sit on a loopback
    # address.
    by_uid = (
        f"-p tcp -m multiport ! --dports 53,{tunnel}"
        if config.dns
        else f"-p tcp ! --dport {tunnel}"
    )
    local = "-p tcp ! --dport 53 " if config.dns else ""
    owners = [("--uid-owner " + uid, by_uid) for uid in config.proxy_uids]
    owners += [
        ("--gid-owner " + gid, f"-p tcp ! --dport {tunnel}")
        for gid in config.proxy_gids
    ]

    for owner, ports in owners:
        rules.add(
            "nat",
            "ISTIO_OUTPUT",
            f"-o lo ! -d {family.loopback} {ports} -m owner {owner} -j ISTIO_IN_REDIRECT",
        )
        if not config.ranges_include.loopback:
            rules.add(
                "nat", "ISTIO_OUTPUT", f"-o lo {local}-m owner ! {owner} -j RETURN"
            )
        rules.add("nat", "ISTIO_OUTPUT", f"-m owner {owner} -j RETURN")


def _owner_groups(rules: _Rules, config: CaptureConfig) -> None:
    groups = config.owner_groups.groups
    if config.owner_groups.only:
        none_of = "".join(f"-m owner ! --gid-owner {group} " for group in groups)
        rules.add("nat", "ISTIO_OUTPUT", f"{none_of}-j RETURN")
    else:
        rules.add(
            "nat",
            "ISTIO_OUTPUT",
            *(f"-m owner --gid-owner {group} -j RETURN" for group in groups),
        )


def _dns(rules: _Rules, config: CaptureConfig, family: _Family) -> None:
    redirect = f"-j REDIRECT --to-ports {config.dns_port}"
    targets = (
        [""]
        if config.capture_all_dns
        else [f"-d {server} " for server in family.dns_servers]
    )
    if targets:
        rules.add("nat", "ISTIO_OUTPUT", "-j ISTIO_OUTPUT_DNS")
    rules.add(
        "nat",
        "ISTIO_OUTPUT_DNS",
        *(f"-p tcp --dport 53 {to}{redirect}" for to in targets),
    )
    rules.add(
        "nat",
        "ISTIO_OUTPUT_DNS",
        *(f"-p udp --dport 53 {to}{redirect}" for to in targets),
    )
    _dns_zones(rules, config, targets)


def _dns_zones(rules: _Rules, config: CaptureConfig, targets: list[str]) -> None:
    """Proxy to resolver is conntrack zone 1, app to proxy zone 2.

    An app's closed UDP port may be the proxy's next one; in one zone the proxy's query would meet
    the app's old entry and be redirected to the proxy itself.
    """
    rules.add("raw", "OUTPUT", "-j ISTIO_OUTPUT_DNS")
    owners = [f"--uid-owner {uid}" for uid in config.proxy_uids] + [
        f"--gid-owner {gid}" for gid in config.proxy_gids
    ]

    for owner in owners:
        rules.add(
            "raw",
            "ISTIO_OUTPUT_DNS",
            f"-p udp --dport 53 -m owner {owner} -j CT --zone 1",
        )
        rules.add(
            "raw",
            "ISTIO_OUTPUT_DNS",
            f"-p udp --sport {config.dns_port} -m owner {owner} -j CT --zone 2",
        )

    for target in targets:
        to = f"-p udp --dport 53 {target}"
        rules.add("raw", "ISTIO_OUTPUT_DNS", f"{to}-j CT --zone 2")
        rules.add(
            "raw",
            "ISTIO_INBOUND",
            f"-p udp --sport 53 {target.replace('-d', '-s')}-j CT --zone 1",
        )

    if targets:
        rules.add("raw", "PREROUTING", "-j ISTIO_INBOUND")


def _outbound_include(rules: _Rules, config: CaptureConfig, family: _Family) -> None:
    rules.add(
        "nat", "ISTIO_OUTPUT", *(f"-d {cidr} -j RETURN" for cidr in family.exclude)
    )
    for port in config.outbound_include.listed:
        rules.add("nat", "ISTIO_OUTPUT", f"-p tcp --dport {port} -j ISTIO_REDIRECT")
    targets = (
        [""]
        if config.ranges_include.every
        else [f"-d {cidr} " for cidr in family.include]
    )
    for target in targets:
        rules.add("nat", "ISTIO_OUTPUT", f"{target}-j ISTIO_REDIRECT")
    for target in targets:
        for interface in config.reroute_interfaces:
            # Such an interface carries a virtual machine's traffic: it enters here and is outbound.
            rules.chain("nat", "PREROUTING").insert(
                0, f"-i {interface} {target}-j ISTIO_REDIRECT"
            )


def _short_cuts(rules: _Rules, config: CaptureConfig, pod: PodOptions | None) -> None:
    tables = ("nat", "mangle") if config.mode is Mode.TPROXY else ("nat",)
    before, after = (
        ("ISTIO_INBOUND", "ISTIO_OUTPUT") if pod else ("PREROUTING", "OUTPUT")
    )
    for table in tables:
        for interface in config.exclude_interfaces:
            rules.add(table, before, f"-i {interface} -j RETURN")
            rules.add(table, after, f"-o {interface} -j RETURN")
    for interface in config.reroute_interfaces:
        rules.chain("nat", "PREROUTING").insert(0, f"-i {interface} -j RETURN")


def _outbound(
    rules: _Rules, config: CaptureConfig, family: _Family, pod: PodOptions | None
) -> None:
    rules.add("nat", "OUTPUT", "-j ISTIO_OUTPUT")
    for port in config.outbound_exclude.listed:
        rules.add(
            "nat",
            "ISTIO_OUTPUT",
            *(f"-p {proto} --dport {port} -j RETURN" for proto in ("tcp", "udp")),
        )

    rules.add("nat", "ISTIO_OUTPUT", f"-o lo -s {family.passthrough} -j RETURN")
    _own_traffic(rules, config, family)
    _owner_groups(rules, config)
    if config.dns:
        _dns(rules, config, family)
    rules.add("nat", "ISTIO_OUTPUT", f"-d {family.loopback} -j RETURN")
    _outbound_include(rules, config, family)


def _pod_extras(rules: _Rules, config: CaptureConfig, pod: PodOptions) -> None:
    if config.dns:
        # Docker answers out of a socket inside the pod; the answer belongs to the proxy's query, so
        # to zone 1.
        rules.add(
            "raw",
            "ISTIO_OUTPUT_DNS",
            f"-p udp -s {pod.resolver}/32 ! --dport 53 -j CT --zone 1",
        )

    for first in range(0, len(pod.hold_ports), MAX_MULTIPORT):
        ports = ",".join(map(str, pod.hold_ports[first : first + MAX_MULTIPORT]))
        # RST with ACK and no established connection is the answer to a SYN; resets of living
        # connections pass.
        rules.add(
            "filter",
            "ISTIO_HOLD",
            f"-p tcp -m multiport --sports {ports} -m conntrack ! --ctstatus ASSURED -j DROP",
        )

    if pod.hold_ports:
        rules.add(
            "filter", "OUTPUT", "-p tcp --tcp-flags RST,ACK RST,ACK -j ISTIO_HOLD"
        )


def _machine_extras(
    rules: _Rules, config: CaptureConfig, machine: MachineOptions
) -> None:
    # A Docker host forwards its containers' connections, which are not this process's.
    inbound = rules.chain("nat", "PREROUTING")
    inbound[:] = [f"-d {machine.address} {rule}" for rule in inbound]
    # Not Istio's rules for DNS: their conntrack zones would keep answers from a Docker host's
    # containers.
    asked = "".join(f" -m owner ! --uid-owner {uid}" for uid in config.proxy_uids)
    rules.chain("nat", "OUTPUT")[:0] = [
        f"-d {server} -p udp --dport 53{asked} -j REDIRECT --to-ports {config.dns_port}"
        for server in machine.name_servers
    ]


def _family_rules(
    config: CaptureConfig,
    family: _Family,
    pod: PodOptions | None,
    machine: MachineOptions | None,
) -> _Rules:
    rules = _Rules()
    for chain in (
        "ISTIO_INBOUND",
        "ISTIO_REDIRECT",
        "ISTIO_IN_REDIRECT",
        "ISTIO_OUTPUT",
    ):
        rules.chain("nat", chain)
    _short_cuts(rules, config, pod)
    if config.drop_invalid:
        rules.add(
            "mangle", "PREROUTING", "-m conntrack --ctstate INVALID -j ISTIO_DROP"
        )
        rules.add("mangle", "ISTIO_DROP", "-j DROP")

    rules.add(
        "nat", "ISTIO_INBOUND", f"-p tcp --dport {config.inbound_tunnel_port} -j RETURN"
    )
    rules.add(
        "nat", "ISTIO_REDIRECT", f"-p tcp -j REDIRECT --to-ports {config.proxy_port}"
    )
    rules.add(
        "nat",
        "ISTIO_IN_REDIRECT",
        f"-p tcp -j REDIRECT --to-ports {config.inbound_capture_port}",
    )

    if config.inbound_include and config.mode is Mode.TPROXY:
        _inbound_tproxy(rules, config, family)
    elif config.inbound_include:
        _inbound_redirect(rules, config)

    _outbound(rules, config, family, pod)
    if config.mode is Mode.TPROXY:
        _tproxy_marks(rules, config, family)
    # The proxy listens on IPv4 alone: a held IPv6 connection would never be answered, a refused one
    # falls back.
    if pod and family.version == 4:
        _pod_extras(rules, config, pod)
    if machine:
        _machine_extras(rules, config, machine)

    return rules


def _families(config: CaptureConfig) -> list[_Family]:
    v4 = _Family(
        version=4,
        loopback=str(config.loopback_v4),
        passthrough="127.0.0.6/32",
        include=tuple(map(str, config.ranges_include.v4)),
        exclude=tuple(map(str, config.ranges_exclude.v4)),
        dns_servers=tuple(f"{server}/32" for server in config.dns_servers_v4),
    )
    v6 = _Family(
        version=6,
        loopback="::1/128",
        passthrough="::6/128",
        include=tuple(map(str, config.ranges_include.v6)),
        exclude=tuple(map(str, config.ranges_exclude.v6)),
        dns_servers=tuple(f"{server}/128" for server in config.dns_servers_v6),
    )
    return [v4, v6] if config.ipv6 else [v4]


def _check_for_pod(config: CaptureConfig) -> None:
    if config.mode is Mode.TPROXY:
        raise InputError(
            "a pod cannot use TPROXY",
            fix="its proxy runs without privileges; use REDIRECT",
        )
    if config.reroute_interfaces or config.drop_invalid:
        raise InputError(
            "a pod has no virtual machines' interfaces and drops nothing",
            fix="leave these settings out",
        )


def render_capture(
    config: CaptureConfig,
    pod: PodOptions | None = None,
    machine: MachineOptions | None = None,
) -> str:
    """The `iptables-restore` text for `config`: Istio's capture, or that of a pod or a joined
    machine of this mesh.
    """
    if pod:
        _check_for_pod(config)
    if config.mode is Mode.NONE:
        return "# InboundInterceptionMode NONE: nothing is captured\n"

    text = ""
    for family in _families(config):
        rules = _family_rules(config, family, pod, machine)
        text += f"# IPv{family.version}\n" + rules.text(jumps_first=pod is not None)

    return text
