"""Egress gateways as a destination: the service by which Istio's tasks call them."""

from __future__ import annotations

from dataclasses import replace

from meshes import as_dict, catalog, edge, service, sidecar, workload

from dockermesh.model import Health, Protocol, Workload, WorkloadKind
from dockermesh.model.contract import EGRESS_GATEWAY_ACCOUNT, SYSTEM_NAMESPACE
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.translator import Translator

HOST = "istio-egressgateway.service.consul"
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: mongo}
spec:
  selector: {istio: egressgateway}
  servers:
    - port: {number: 7777, name: tcp, protocol: TCP}
      hosts: [mongo.example.com]
    - port: {number: 443, name: tls, protocol: TLS}
      hosts: [mongo.example.com]
      tls: {mode: PASSTHROUGH}
"""


def egress_workload(**more: object) -> Workload:
    made = workload(
        "istio-egressgateway-1", address="172.28.0.20", kind=WorkloadKind.GATEWAY
    )
    labels = {"app": "istio-egressgateway", "istio": "egressgateway"}
    own = {
        "namespace": SYSTEM_NAMESPACE,
        "service_account": EGRESS_GATEWAY_ACCOUNT,
        "token_sha256": "ab",
    }
    return replace(made, labels=labels, **(own | more))  # type: ignore[arg-type]


def test_a_running_egress_gateway_is_a_service_with_the_ports_of_its_gateways() -> None:
    state = build_mesh(
        catalog([service("web", "10.0.0.1")], [egress_workload()]), config=edge(GATEWAY)
    )
    made = state.services[HOST]
    assert state.names["istio-egressgateway.istio-system.svc.cluster.local"] == HOST
    ports = {port.number: port.protocol for port in made.ports}
    assert ports == {80: Protocol.HTTP, 443: Protocol.HTTPS, 7777: Protocol.TCP}
    assert {(e.address, e.port, e.health) for e in made.endpoints} == {
        ("172.28.0.20", number, Health.HEALTHY) for number in (80, 443, 7777)
    }
    # No mutual TLS unless a Gateway of the user asks for it.
    assert not any(endpoint.takes_mtls for endpoint in made.endpoints)


def test_one_that_is_down_is_unhealthy_and_without_any_there_is_no_service() -> None:
    down = build_mesh(catalog([], [egress_workload(token_sha256="")]))
    assert {endpoint.health for endpoint in down.services[HOST].endpoints} == {
        Health.UNHEALTHY
    }
    ingress = replace(egress_workload(), labels={"istio": "ingressgateway"})
    assert HOST not in build_mesh(catalog([], [ingress])).services


def test_what_did_not_change_is_the_same_object() -> None:
    first = build_mesh(catalog([], [egress_workload()]))
    second = build_mesh(
        catalog([service("web", "10.0.0.1")], [egress_workload()]), previous=first
    )
    assert second.services[HOST] is first.services[HOST]


def test_sidecars_get_its_clusters() -> None:
    translator = Translator()
    translator.update(
        build_mesh(catalog([], [egress_workload()]), config=edge(GATEWAY))
    )
    names = {c["name"] for c in as_dict(translator.snapshot(sidecar()))["clusters"]}
    assert {f"outbound|{port}||{HOST}" for port in (80, 443, 7777)} <= names
