"""What `analyze` knows of the running mesh is what the control plane's pages tell of it."""

from __future__ import annotations

import json

from dockermesh.analysis.context import Context
from dockermesh.analysis.reading import read_items
from dockermesh.analysis.registry import analyze
from dockermesh.client.mesh.live_mesh import reported_catalog
from dockermesh.controlplane.debug import catalog_report, workload_report
from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    Protocol,
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


def found(**names: str) -> list[str]:
    reports = json.loads(
        json.dumps(
            [catalog_report(CATALOG), workload_report(CATALOG, [], Sync(0, 0, 0))]
        )
    )
    catalog = reported_catalog(reports[0], reports[1]["workloads"])
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


def test_a_gateway_that_no_running_workload_serves_is_found() -> None:
    assert found(selector="egressgateway") == ["IST0101", "DM0004"]
