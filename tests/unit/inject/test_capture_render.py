"""What is captured: packets are walked through the rendered chains, and must end where
istio-iptables sends them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from dockermesh.errors import InputError
from dockermesh.inject.capture import (
    PodOptions,
    pod_capture,
    pod_capture_config,
    render_capture,
)
from dockermesh.inject.capture.parse import capture_config

POD_IMAGE = Path(__file__).parents[3] / "compose/images/pod"
VERDICTS = {"RETURN", "ACCEPT", "DROP", "REDIRECT", "TPROXY"}


@dataclass(frozen=True)
class Packet:
    """A new connection's first packet, as the chains see it."""

    dst: str
    dport: int
    proto: str = "tcp"
    src: str = "10.0.0.1"
    sport: int = 40000
    iface: str = "eth0"
    uid: str = "0"
    gid: str = "0"
    mark: int = 0


@dataclass
class Tables:
    """One family of an `iptables-restore` text; only what the rendered rules use is understood."""

    chains: dict[tuple[str, str], list[list[str]]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Tables:
        tables, table = cls(), ""
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] == "COMMIT":
                continue
            if words[0].startswith("*"):
                table = words[0][1:]
            elif words[0].startswith(":"):
                tables.chains[table, words[0][1:]] = []
            elif words[0] == "-A":
                tables.chains.setdefault((table, words[1]), []).append(words[2:])
            elif words[0] == "-I":
                tables.chains.setdefault((table, words[1]), []).insert(
                    int(words[2]) - 1, words[3:]
                )
            else:
                raise AssertionError(f"not understood: {line}")
        return tables

    def walk(self, table: str, chain: str, packet: Packet) -> str:
        for rule in self.chains.get((table, chain), []):
            options, target = rule[: rule.index("-j")], rule[rule.index("-j") + 1 :]
            if not matches(options, packet):
                continue
            if target[0] in {"MARK", "CONNMARK", "CT"}:
                continue
            if target[0] == "RETURN":
                return ""
            if target[0] in {"REDIRECT", "TPROXY"}:
                return target[-1] if target[0] == "REDIRECT" else f"tproxy {target[-1]}"
            if target[0] in VERDICTS:
                return target[0]
            assert (table, target[0]) in self.chains, (
                f"jump to {target[0]}, which is not declared"
            )
            if found := self.walk(table, target[0], packet):
                return found
        return ""


def _port_in(port: int, spec: str) -> bool:
    low, _, high = spec.partition(":")
    return int(low) <= port <= int(high or low)


MATCHERS: dict[str, Callable[[Packet, str], bool]] = {
    "-p": lambda packet, value: packet.proto == value,
    "-i": lambda packet, value: packet.iface == value,
    "-o": lambda packet, value: packet.iface == value,
    "-d": lambda packet, value: ip_address(packet.dst) in ip_network(value),
    "-s": lambda packet, value: ip_address(packet.src) in ip_network(value),
    "--dport": lambda packet, value: _port_in(packet.dport, value),
    "--dports": lambda packet, value: any(
        _port_in(packet.dport, port) for port in value.split(",")
    ),
    "--sport": lambda packet, value: _port_in(packet.sport, value),
    "--uid-owner": lambda packet, value: packet.uid == value,
    "--gid-owner": lambda packet, value: packet.gid == value,
    "--mark": lambda packet, value: packet.mark == int(value),
    "--ctstate": lambda packet, value: "NEW" in value,
    # Every query of DNS here asks for an IPv4 address.
    "--algo": lambda packet, value: True,
    "--from": lambda packet, value: True,
    "--hex-string": lambda packet, value: True,
}


def matches(options: list[str], packet: Packet) -> bool:
    words, negate = list(options), False
    while words:
        name = words.pop(0)
        if name == "!":
            negate = True
            continue
        value = words.pop(0)
        if name == "-m":
            continue
        if MATCHERS[name](packet, value) is negate:
            return False
        negate = False
    return True


def families(text: str) -> tuple[Tables, Tables]:
    v4, _, v6 = text.partition("# IPv6\n")
    return Tables.parse(v4), Tables.parse(v6)


def out(config: dict[str, object], packet: Packet) -> str:
    v4, v6 = families(render_capture(capture_config(config)))
    return (v6 if ":" in packet.dst else v4).walk("nat", "OUTPUT", packet)


def into(config: dict[str, object], packet: Packet, table: str = "nat") -> str:
    v4, v6 = families(render_capture(capture_config(config)))
    return (v6 if ":" in packet.dst else v4).walk(table, "PREROUTING", packet)


ALL_OUT: dict[str, object] = {"OutboundIPRangesInclude": "*"}
ALL_IN: dict[str, object] = {"InboundPortsInclude": "*"}
PROXY = {"uid": "1337", "gid": "1337"}


def test_the_defaults_capture_nothing() -> None:
    assert out({}, Packet("1.2.3.4", 80)) == ""
    assert into({}, Packet("10.0.0.1", 80)) == ""


@pytest.mark.parametrize(
    ("packet", "end"),
    [
        (Packet("1.2.3.4", 80), "15001"),
        (Packet("1.2.3.4", 80, uid="1337"), ""),
        (Packet("1.2.3.4", 80, gid="1337"), ""),
        (Packet("127.0.0.1", 80, iface="lo"), ""),
        (Packet("10.0.0.1", 80, iface="lo"), ""),
        (Packet("10.0.0.1", 80, iface="lo", **PROXY), "15006"),
        (Packet("10.0.0.1", 15008, iface="lo", **PROXY), ""),
        (Packet("10.0.0.1", 80, iface="lo", src="127.0.0.6", **PROXY), ""),
        (Packet("127.0.0.1", 80, iface="lo", **PROXY), ""),
        (Packet("1.2.3.4", 53, proto="udp"), ""),
    ],
)
def test_all_outbound(packet: Packet, end: str) -> None:
    assert out(ALL_OUT, packet) == end


@pytest.mark.parametrize(
    ("config", "port", "end"),
    [
        (ALL_IN, 80, "15006"),
        (ALL_IN, 22, "15006"),
        (ALL_IN, 15008, ""),
        ({**ALL_IN, "InboundPortsExclude": "22,8000:8100,"}, 22, ""),
        ({**ALL_IN, "InboundPortsExclude": "22,8000:8100,"}, 8050, ""),
        ({**ALL_IN, "InboundPortsExclude": "22,8000:8100,"}, 8101, "15006"),
        ({"InboundPortsInclude": "80,443"}, 443, "15006"),
        ({"InboundPortsInclude": "80,443"}, 444, ""),
        ({**ALL_IN, "ExcludeInterfaces": "eth0"}, 80, ""),
        ({**ALL_IN, "InboundCapturePort": "16006"}, 80, "16006"),
        ({**ALL_IN, "InboundInterceptionMode": "NONE"}, 80, ""),
    ],
)
def test_inbound(config: dict[str, object], port: int, end: str) -> None:
    assert into(config, Packet("10.0.0.1", port)) == end


def test_outbound_ranges_and_ports() -> None:
    config = {
        "OutboundIPRangesInclude": "9.9.0.0/16",
        "OutboundIPRangesExclude": "9.9.1.0/24",
    }
    assert out(config, Packet("9.9.0.1", 80)) == "15001"
    assert out(config, Packet("9.9.1.1", 80)) == ""
    assert out(config, Packet("8.8.8.8", 80)) == ""
    assert (
        out({**ALL_OUT, "OutboundPortsExclude": "3306"}, Packet("1.2.3.4", 3306)) == ""
    )
    assert out({"OutboundPortsInclude": "3306"}, Packet("1.2.3.4", 3306)) == "15001"
    assert out({"OutboundPortsInclude": "3306"}, Packet("1.2.3.4", 3307)) == ""
    # Excluded ranges come before included ports.
    both = {"OutboundPortsInclude": "80", "OutboundIPRangesExclude": "1.2.3.0/24"}
    assert out(both, Packet("1.2.3.4", 80)) == ""


def test_a_loopback_range_captures_an_apps_calls_to_itself() -> None:
    config = {"OutboundIPRangesInclude": "127.1.2.3/32"}
    assert out(config, Packet("127.1.2.3", 80, iface="lo")) == "15001"
    assert out(config, Packet("127.0.0.1", 80, iface="lo")) == ""


def test_owner_groups() -> None:
    only = {**ALL_OUT, "OwnerGroupsInclude": "java,202"}
    assert out(only, Packet("1.2.3.4", 80, gid="202")) == "15001"
    assert out(only, Packet("1.2.3.4", 80, gid="5")) == ""
    but = {**ALL_OUT, "OwnerGroupsExclude": "888,ftp"}
    assert out(but, Packet("1.2.3.4", 80, gid="ftp")) == ""
    assert out(but, Packet("1.2.3.4", 80, gid="5")) == "15001"


DNS: dict[str, object] = {
    **ALL_OUT,
    "RedirectDNS": True,
    "DNSServersV4": ["127.0.0.53"],
}


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_dns_to_the_servers_goes_to_the_proxys_dns_port(proto: str) -> None:
    assert out(DNS, Packet("127.0.0.53", 53, proto=proto, iface="lo")) == "15053"
    assert out(DNS, Packet("127.0.0.53", 53, proto=proto, iface="lo", **PROXY)) == ""
    assert out(DNS, Packet("8.8.8.8", 53, proto="udp")) == ""
    assert (
        out({**DNS, "CaptureAllDNS": True}, Packet("8.8.8.8", 53, proto=proto))
        == "15053"
    )


def test_dns_without_servers_is_off() -> None:
    config = {"RedirectDNS": True, "EnableIPv6": True}
    assert "ISTIO_OUTPUT_DNS" not in render_capture(capture_config(config))


def test_ipv6_is_captured_only_when_enabled() -> None:
    packet = Packet("2001:db8::1", 80, src="2001:db8::2")
    assert out(ALL_OUT, packet) == ""
    assert out({**ALL_OUT, "EnableIPv6": True}, packet) == "15001"
    ranges = {"EnableIPv6": True, "OutboundIPRangesInclude": "2001:db8::/32,10.0.0.0/8"}
    assert out(ranges, packet) == "15001"
    assert out(ranges, Packet("10.1.1.1", 80)) == "15001"
    assert out(ranges, Packet("2001:db9::1", 80)) == ""


def test_rerouted_interfaces_are_outbound() -> None:
    config = {
        **ALL_IN,
        "RerouteVirtualInterfaces": "vm0",
        "OutboundIPRangesInclude": "10.0.0.0/8",
    }
    assert into(config, Packet("10.1.1.1", 80, iface="vm0")) == "15001"
    assert into(config, Packet("11.1.1.1", 80, iface="vm0")) == ""
    assert into(config, Packet("11.1.1.1", 80, iface="eth0")) == "15006"


def test_tproxy() -> None:
    config: dict[str, object] = {
        **ALL_IN,
        "InboundInterceptionMode": "TPROXY",
        "ExcludeInterfaces": "nic9",
    }
    assert into(config, Packet("10.0.0.1", 80), "mangle") == "tproxy 15006"
    assert into(config, Packet("10.0.0.1", 80, iface="nic9"), "mangle") == ""
    assert into(config, Packet("10.0.0.1", 80, mark=1337), "mangle") == ""
    assert into(config, Packet("10.0.0.1", 80, iface="lo"), "mangle") == ""
    assert (
        into(config, Packet("10.0.0.1", 80, iface="lo", mark=1338), "mangle")
        == "tproxy 15006"
    )
    assert into(config, Packet("10.0.0.1", 80), "nat") == ""
    some = {"InboundPortsInclude": "80", "InboundInterceptionMode": "TPROXY"}
    assert into(some, Packet("10.0.0.1", 80), "mangle") == "tproxy 15006"
    assert into(some, Packet("10.0.0.1", 81), "mangle") == ""


def test_drop_invalid() -> None:
    v4, _ = families(render_capture(capture_config({"DropInvalid": True})))
    assert v4.chains["mangle", "PREROUTING"] == [
        ["-m", "conntrack", "--ctstate", "INVALID", "-j", "ISTIO_DROP"]
    ]


def test_a_pod_puts_only_jumps_at_the_head_of_built_in_chains() -> None:
    text = pod_capture(
        pod_capture_config(exclude_interfaces="nic9", exclude_inbound_ports="22")
    )
    built_in = [
        line
        for line in text.splitlines()
        if line.split()[1:2] and line.split()[1] in {"OUTPUT", "PREROUTING"}
    ]
    assert built_in
    for line in built_in:
        assert line.startswith("-I ") and " -j ISTIO_" in line
    v4, v6 = families(text)
    assert v4.walk("nat", "PREROUTING", Packet("10.0.0.1", 80)) == "15006"
    assert v4.walk("nat", "PREROUTING", Packet("10.0.0.1", 80, iface="nic9")) == ""
    for port in (22, 15021, 15090):
        assert v4.walk("nat", "PREROUTING", Packet("10.0.0.1", port)) == ""
    assert (
        v4.walk("nat", "OUTPUT", Packet("127.0.0.11", 53, proto="udp", iface="lo"))
        == "15053"
    )
    assert (
        v4.walk(
            "nat", "OUTPUT", Packet("127.0.0.11", 53, proto="udp", iface="lo", **PROXY)
        )
        == ""
    )
    assert ("filter", "OUTPUT") not in v6.chains


def test_a_pod_refuses_what_its_proxy_cannot_do() -> None:
    with pytest.raises(InputError, match="TPROXY"):
        render_capture(
            capture_config({**ALL_IN, "InboundInterceptionMode": "TPROXY"}),
            PodOptions(),
        )


def test_the_image_holds_the_default_rules() -> None:
    assert (POD_IMAGE / "capture.rules").read_text() == pod_capture()


@pytest.mark.parametrize(
    "config",
    [{"DNSServersV4": ["8.8.8.8"]}, {"CaptureAllDNS": True}, {"DNSServersV4": []}],
)
def test_a_pods_rules_for_dns_do_not_depend_on_whose_resolver_it_is(
    config: dict[str, object],
) -> None:
    text = render_capture(capture_config({"RedirectDNS": True, **config}), PodOptions())
    servers = 0 if config == {"DNSServersV4": []} else 1
    asked = [
        line
        for line in text.splitlines()
        if "-p udp --dport 53 " in line and "-m owner" not in line
    ]
    redirects = [line for line in asked if "-j REDIRECT" in line]
    assert len(redirects) == servers
    zones = [line for line in asked if "-j CT" in line]
    assert [line.endswith("--zone 2") for line in zones] == [True] * servers
    assert "-m string" not in text, "kernels without xt_string are as good"
