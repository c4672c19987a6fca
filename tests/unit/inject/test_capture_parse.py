"""The capture configuration's JSON: Istio's names and defaults, and a named refusal of everything
else.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dockermesh.cli.capture import command
from dockermesh.errors import InputError
from dockermesh.inject.capture import CaptureConfig, parse_capture_config


def test_an_empty_object_gives_istios_defaults() -> None:
    assert parse_capture_config("{}") == CaptureConfig()
    assert parse_capture_config('{"ProxyUID": "", "ProxyGID": ""}') == CaptureConfig()
    assert parse_capture_config('{"ProxyUID": "3,4"}').proxy_gids == ("3", "4")


def test_old_and_environment_names_are_understood() -> None:
    old = parse_capture_config(
        '{"KubeVirtInterfaces": "eth1", "EnableInboundIPv6": true, "PROXY_PORT": "16001"}'
    )
    new = parse_capture_config(
        '{"RerouteVirtualInterfaces": "eth1", "EnableIPv6": true, "ProxyPort": 16001}'
    )
    assert old == new


def test_settings_that_do_not_change_the_rules_are_accepted() -> None:
    text = (
        '{"DryRun": true, "NetworkNamespace": "", "TraceLogging": false, "ProbeTimeout": 0,'
        ' "DNSServersV6": null}'
    )
    assert parse_capture_config(text) == CaptureConfig()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"InboundPortInclude": "*"}, "InboundPortInclude"),
        ({"InboundPortsInclude": "*,80"}, "InboundPortsInclude"),
        ({"InboundPortsInclude": "http"}, "http"),
        ({"InboundPortsInclude": "70000"}, "70000"),
        ({"InboundPortsInclude": "90:80"}, "90:80"),
        ({"InboundPortsInclude": {"port": 80}}, "InboundPortsInclude"),
        ({"InboundPortsExclude": "*"}, "InboundPortsExclude"),
        ({"OutboundIPRangesInclude": "10.0.0.0"}, "10.0.0.0"),
        ({"OutboundIPRangesInclude": "10.0.0.0/33"}, "10.0.0.0/33"),
        ({"OutboundIPRangesExclude": "*"}, "OutboundIPRangesExclude"),
        ({"ProxyPort": "0"}, "ProxyPort"),
        ({"ProxyPort": True}, "ProxyPort"),
        ({"ProxyPort": "15001 -j ACCEPT"}, "ProxyPort"),
        ({"ProxyUID": "a b"}, "ProxyUID"),
        ({"RedirectDNS": "true"}, "RedirectDNS"),
        ({"DNSServersV4": ["::1"]}, "::1"),
        ({"InboundInterceptionMode": "redirect"}, "redirect"),
        ({"ExcludeInterfaces": "eth0;reboot"}, "eth0;reboot"),
        ({"OwnerGroupsInclude": "a", "OwnerGroupsExclude": "b"}, "OwnerGroupsExclude"),
        ({"OwnerGroupsInclude": ",".join(map(str, range(65)))}, "64"),
        ({"HostIPv4LoopbackCidr": "10.0.0.0/8"}, "HostIPv4LoopbackCidr"),
        ({"ForceApply": 1}, "ForceApply"),
        ({"ProxyPort": 1, "PROXY_PORT": 1}, "twice"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, object], named: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_capture_config(json.dumps(data), where="capture.json")
    assert named in caught.value.what
    assert caught.value.where == "capture.json"
    assert caught.value.fix


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_what_is_not_an_object_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_capture_config(text)


def test_the_command_prints_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "capture.json"
    file.write_text('{"InboundPortsInclude": "80", "EnableIPv6": true}')
    result = CliRunner().invoke(command, ["render", "--config", str(file)])
    assert result.exit_code == 0
    v4, v6 = result.output.split("# IPv6")
    assert v4.count("--dport 80") == v6.count("--dport 80") == 1


def test_the_command_refuses_a_missing_file() -> None:
    result = CliRunner().invoke(command, ["render", "--config", "/does/not/exist"])
    assert isinstance(result.exception, InputError)
