"""Connections of bytes wait for an app of the mesh that is not there yet, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from meshes import as_dict, mesh, service, sidecar

from dockermesh.model import Protocol
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.translator import Translator

DB = service("db", "10.0.0.1", port=5432, protocol=Protocol.TCP)


def entry(location: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: other}}
spec:
  hosts: [other.example.com]
  ports: [{{number: 5433, name: tcp, protocol: TCP}}]
  location: {location}
  resolution: DNS
"""


ROUTED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routed}
spec: {hosts: [db], tcp: [{route: [{destination: {host: other.example.com}}]}]}
"""


def tcp_proxies(listeners: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for listener in listeners:
        chains = [*listener.get("filterChains", ()), listener.get("defaultFilterChain")]
        for chain in filter(None, chains):
            made = chain["filters"][-1]["typedConfig"]
            if made["@type"].endswith("TcpProxy"):
                yield made


def attempts(cluster: str, config: str = "", hold_attempts: int = 20) -> set[int]:
    translator = Translator()
    settings = MeshSettings(hold_attempts=hold_attempts)
    state = mesh(
        DB,
        service("front", "172.28.0.9", port=5432, protocol=Protocol.TCP),
        config=config,
        settings=settings,
    )
    translator.update(state)
    listeners = as_dict(translator.snapshot(sidecar("front-1", 5432)))["listeners"]
    found = [p for p in tcp_proxies(listeners) if p.get("cluster") == cluster]
    for proxy in found:
        assert ("backoffOptions" in proxy) == (proxy["maxConnectAttempts"] > 3)
    return {proxy["maxConnectAttempts"] for proxy in found}


OUTBOUND, OTHER = "outbound|5432||db.service.consul", "outbound|5433||other.example.com"


def test_a_client_s_proxy_holds_a_connection_to_a_service_of_the_mesh() -> None:
    assert attempts(OUTBOUND) == {21}
    assert attempts(OTHER, entry("MESH_INTERNAL")) == {21}


def test_what_is_outside_the_mesh_refuses_at_once() -> None:
    assert attempts(OTHER, entry("MESH_EXTERNAL")) == {3}
    routed = f"{entry('MESH_EXTERNAL')}---{ROUTED}"
    assert attempts(OTHER, routed) == {3}


def test_where_a_rule_leads_changes_when_that_leaves_the_mesh() -> None:
    translator = Translator()
    for location, expected in (("MESH_INTERNAL", 21), ("MESH_EXTERNAL", 3)):
        translator.update(mesh(DB, config=f"{entry(location)}---{ROUTED}"))
        listeners = as_dict(translator.snapshot(sidecar()))["listeners"]
        found = [p for p in tcp_proxies(listeners) if p.get("cluster") == OTHER]
        assert len(found) == 2, "that of the rule, and its own"
        assert {p["maxConnectAttempts"] for p in found} == {expected}


@pytest.mark.parametrize(("protocol", "expected"), [("http", set()), ("tcp", {81})])
def test_a_server_s_proxy_holds_what_is_for_a_declared_port(
    protocol: str, expected: set[int]
) -> None:
    proxy = sidecar("front-1", 5432)
    assert proxy.workload is not None
    ports = tuple(replace(p, protocol=protocol) for p in proxy.workload.ports)
    proxy = replace(proxy, workload=replace(proxy.workload, ports=ports))
    translator = Translator()
    translator.update(mesh(DB))
    listeners = as_dict(translator.snapshot(proxy))["listeners"]
    made = list(tcp_proxies(listeners))
    to_app = {p["maxConnectAttempts"] for p in made if p["cluster"] == "inbound|5432||"}
    undeclared = [p for p in made if p["cluster"] == "InboundPassthroughCluster"]
    assert to_app == expected
    assert {p["maxConnectAttempts"] for p in undeclared} == {3}


def test_holding_can_be_switched_off() -> None:
    assert attempts(OUTBOUND, hold_attempts=0) == {3}
