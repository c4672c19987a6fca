"""What slips past validation and cannot become Envoy configuration costs itself alone, and is
named.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from meshes import edge, gateway, mesh, messages, service, sidecar

from dockermesh.config.api.destination_rule import (
    ConnectionPoolSettings,
    TCPSettings,
    TrafficPolicy,
)
from dockermesh.config.api.virtual_service import HTTPRewrite
from dockermesh.model import Protocol
from dockermesh.translate.mesh.findings import Reason
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.translator import Translator

CONFIG = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.example"]}
  - {port: {number: 3306, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good}
spec: {hosts: [good.example], gateways: [edge], http: [{route: [{destination: {host: reviews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad}
spec:
  hosts: [bad.example, ratings]
  gateways: [edge, mesh]
  http: [{rewrite: {uri: /x}, route: [{destination: {host: reviews}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes}
spec:
  hosts: [bytes.example, db.service.consul]
  gateways: [edge, mesh]
  tcp: [{match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: db}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: slow}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
"""


def spoil(config: IstioConfig) -> IstioConfig:
    """The config with values that validation would have refused."""

    def spoiled(resource: Any) -> Any:
        spec = resource.spec
        if resource.name == "bad":
            return replace(
                resource,
                spec=replace(
                    spec, http=(replace(spec.http[0], rewrite=HTTPRewrite(uri="a\nb")),)
                ),
            )
        if resource.name == "bytes":
            match = replace(spec.tcp[0].match[0], destination_subnets=("10.0.0.0/x",))
            return replace(
                resource,
                spec=replace(spec, tcp=(replace(spec.tcp[0], match=(match,)),)),
            )
        if resource.name == "slow":
            pool = ConnectionPoolSettings(
                tcp=TCPSettings(connect_timeout=timedelta(seconds=-1))
            )
            return replace(
                resource,
                spec=replace(spec, traffic_policy=TrafficPolicy(connection_pool=pool)),
            )
        return resource

    return replace(
        config,
        virtual_services=tuple(map(spoiled, config.virtual_services)),
        destination_rules=tuple(map(spoiled, config.destination_rules)),
    )


@pytest.fixture
def broken() -> MeshState:
    services = (
        service("reviews", "10.0.0.2"),
        service("ratings", "10.0.0.3"),
        service("db", "10.0.0.4", port=3306, protocol=Protocol.TCP),
    )
    return replace(mesh(*services, config=CONFIG), config=spoil(edge(CONFIG)))


def test_a_gateway_keeps_what_is_sound(broken: MeshState) -> None:
    translator = Translator()
    translator.update(broken)
    snapshot = translator.snapshot(gateway({"istio": "ingressgateway"}))
    table = messages(snapshot, "routes")["http.80"]
    assert [host.name for host in table.virtual_hosts] == ["good.example:80"]
    problems = translator.problems()
    assert "prefix_rewrite" in problems["VirtualService default/bad"]
    assert "VirtualService default/bytes" in problems
    assert not any("good" in text for text in problems.values())
    (fault,) = translator.findings("VirtualService default/bytes")
    assert fault.reason is Reason.NOT_TRANSLATED


def test_a_sidecar_keeps_the_service_without_the_rule(broken: MeshState) -> None:
    translator = Translator()
    translator.update(broken)
    snapshot = translator.snapshot(sidecar("front-1", 80))
    hosts = {
        host.name: host for host in messages(snapshot, "routes")["9080"].virtual_hosts
    }
    assert (
        hosts["ratings.service.consul:9080"].routes[0].route.cluster
        == "outbound|9080||ratings.service.consul"
    )
    assert "outbound|9080||reviews.service.consul" in messages(snapshot, "clusters")
    assert "outbound|3306||db.service.consul" in messages(snapshot, "clusters")
    problems = translator.problems()
    assert problems["ratings.service.consul"].startswith(
        "VirtualService default/bad cannot be translated"
    )
    assert problems["db.service.consul"].startswith(
        "VirtualService default/bytes cannot be translated"
    )
    assert problems["reviews.service.consul"].startswith(
        "DestinationRule default/slow cannot be translated"
    )
    (fault,) = translator.findings("DestinationRule default/slow")
    assert fault.reason is Reason.NOT_TRANSLATED


def test_problems_end_with_their_cause(broken: MeshState) -> None:
    translator = Translator()
    translator.update(broken)
    translator.snapshot(gateway({"istio": "ingressgateway"}))
    translator.update(replace(broken, config=edge(CONFIG)))
    translator.snapshot(gateway({"istio": "ingressgateway"}))
    assert translator.problems() == {}
