"""What `analyze` knows of the running mesh is what the control plane's pages tell of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import as_line
from dockermesh.analysis.reading import read_items
from dockermesh.analysis.registry import analyze
from dockermesh.cli.ps import print_table
from dockermesh.client.mesh.live_mesh import reported_catalog
from dockermesh.controlplane.debug import catalog_report, workload_report
from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    Protocol,
    Refusal,
    RefusedFor,
    ServedPort,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.xds import Sync

REVIEWS = Service(
    "reviews",
    "reviews.service.consul",
    (Port(9080, Protocol.HTTP),),
    (Endpoint("10.0.0.1", 9080, labels={"version": "v1"}, workload="shop/reviews-1"),),
)
DOWN = Service(
    "down",
    "down.service.consul",
    (Port(80, Protocol.HTTP),),
    (
        Endpoint(
            "10.0.0.2", 80, health=Health.UNHEALTHY, labels={}, workload="shop/down-1"
        ),
    ),
)
WORKLOADS = (
    Workload("1", "shop/reviews-1", "reviews", labels={"app": "reviews"}),
    Workload(
        "2",
        "shop/gateway-1",
        kind=WorkloadKind.GATEWAY,
        labels={"istio": "ingressgateway"},
    ),
)
CATALOG = Catalog(
    {s.hostname: s for s in (REVIEWS, DOWN)}, {w.name: w for w in WORKLOADS}
)
CONFIG = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: %(gateway)s}
spec:
  selector: {istio: %(selector)s}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: ["*"], gateways: [front], http: [{route: [{destination: {host: %(host)s}}]}]}
"""


def reported(catalog: Catalog) -> Catalog:
    """What the pages of a control plane with this catalog tell."""
    reports = json.loads(
        json.dumps(
            [catalog_report(catalog), workload_report(catalog, [], Sync(0, 0, 0))]
        )
    )
    return reported_catalog(reports[0], reports[1]["workloads"])


def test_what_decided_protocols_is_told_and_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    db = Workload(
        "3",
        "shop/db-1",
        "db",
        ports=(ServedPort("db", 3399, "mysql"), ServedPort("db", 80, "auto")),
        protocol_rules={"3399": "image", "80": "sniffed"},
    )
    catalog = Catalog({}, {db.name: db})
    assert reported(catalog).workloads[db.name].protocol_rules == db.protocol_rules

    print_table(workload_report(catalog, [], Sync(0, 0, 0))["workloads"], wide=True)
    [_, line] = capsys.readouterr().out.splitlines()
    assert line.endswith("80/auto (sniffed), 3399/mysql (image)")


def judged(text: str, *workloads: Workload, with_secrets: bool = True) -> list[str]:
    """What is found in resources in a mesh with these workloads, too."""
    known = {w.name: w for w in (*WORKLOADS, *workloads)}
    items, findings = read_items([("", text)], "default")
    context = Context(
        items,
        findings=findings,
        catalog=reported(Catalog(CATALOG.services, known)),
        is_live=True,
        with_secrets=with_secrets,
    )
    return [f"{d.code} {d.message}" for d in analyze(context)]


def found(**names: str) -> list[str]:
    catalog = reported(CATALOG)
    values = {
        "gateway": "front",
        "selector": "ingressgateway",
        "host": "reviews",
    } | names
    items, findings = read_items([("", CONFIG % values)], "default")
    return [
        d.code
        for d in analyze(
            Context(items, findings=findings, catalog=catalog, is_live=True)
        )
    ]


def test_what_fits_the_mesh_is_sound() -> None:
    for host in (
        "reviews",
        "reviews.service.consul",
        "reviews.default.svc.cluster.local",
    ):
        assert found(host=host) == []


def test_what_the_mesh_does_not_have_is_found() -> None:
    assert found(host="nobody") == ["IST0101"]
    assert found(host="down") == ["DM0001"]
    assert found(gateway="back") == ["IST0101", "IST0132"]


def test_a_registration_that_is_refused_is_found_with_what_helps() -> None:
    refusal = Refusal(
        kind=RefusedFor.NAME,
        asker="evil/web-1",
        at="10.6.6.6:80",
        service="reviews",
        namespace="default",
        wanted="reviews",
        owner="shop",
        why="default/web is no account of the service",
        fix="give it a SERVICE_NAME of its own",
    )
    told = Refusal.from_dict(json.loads(json.dumps(refusal.to_dict())))
    assert told == refusal
    (finding,) = analyze(Context((), catalog=CATALOG, is_live=True, refused=[told]))
    assert as_line(finding) == (
        "Warning [DM0009] (Service default/reviews) evil/web-1 (10.6.6.6:80) is registered as"
        " reviews, which is shop's, and gets none of its requests: default/web is no account"
        " of the service; give it a SERVICE_NAME of its own"
    )


def test_a_gateway_that_no_running_workload_serves_is_found() -> None:
    assert found(selector="egressgateway") == ["IST0101", "DM0004"]


EGRESS = Workload(
    "3",
    "shop/istio-egressgateway-1",
    kind=WorkloadKind.GATEWAY,
    namespace="istio-system",
    address="10.0.0.9",
    labels={"istio": "egressgateway"},
)
OUT = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 7777, name: tcp, protocol: TCP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out}
spec:
  hosts: [example.com]
  tcp: [{route: [{destination: {host: %s, port: {number: %d}}}]}]
"""


def test_the_meshs_own_egress_gateway_is_a_destination() -> None:
    for host in (
        "istio-egressgateway.istio-system.svc.cluster.local",
        "istio-egressgateway.service.consul",
    ):
        # It is not connected, which is another matter.
        assert {line.split()[0] for line in judged(OUT % (host, 7777), EGRESS)} <= {
            "DM0001"
        }
        (finding,) = [
            line for line in judged(OUT % (host, 7778), EGRESS) if "IST0101" in line
        ]
        assert f"{host}:7778" in finding
    assert any("IST0101" in line for line in judged(OUT % (host, 7777)))


SECURE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ["*"]
    tls: {mode: SIMPLE, credentialName: site}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: both}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 444, name: https, protocol: HTTPS}
    hosts: ["*"]
    tls: {mode: SIMPLE, credentialNames: [gone, site]}
"""
SITE = """
---
apiVersion: v1
kind: Secret
metadata: {name: site, namespace: default}
data: {}
"""


def test_a_credential_that_the_mesh_does_not_have_is_found() -> None:
    missing = 'IST0101 Referenced credentialName not found: "{}"'
    assert sorted(judged(SECURE)) == [
        missing.format("gone"),
        missing.format("site"),
        missing.format("site"),
    ]
    # In the namespace in which all gateways look; that it holds nothing is another finding.
    codes = [line.split()[0] for line in judged(SECURE + SITE)]
    assert sorted(codes) == ["IST0101", "IST0161", "IST0161"]
    assert judged(SECURE, with_secrets=False) == []


def test_a_port_of_a_gateway_that_no_host_publishes_is_found() -> None:
    published = replace(WORKLOADS[1], published=(443,))
    (finding,) = judged(SECURE, published, with_secrets=False)
    assert finding.startswith("IST0162") and "444" in finding
    assert (
        judged(SECURE, replace(published, published=(443, 444)), with_secrets=False)
        == []
    )
