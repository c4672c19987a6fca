"""Of resources in conflict the oldest wins, in whatever order they are loaded and however often all
is started anew.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import any_pb2

from dockermesh.config.documents import read_text
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.translate.mesh.settings import istio_config
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot

SHUFFLES = 50
DOCUMENTS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: z-oldest, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {hosts: [web], http: [{timeout: 1s, route: [{destination: {host: web, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a-younger, creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {hosts: [web.service.consul, db], http: [{timeout: 2s, route: [{destination: {host: web, subset: v2}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b-undated}
spec: {hosts: [web], http: [{timeout: 3s, route: [{destination: {host: db}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a-oldest, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  host: web
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b-younger, creationTimestamp: "2026-01-01T00:00:01Z"}
spec:
  host: web.service.consul
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  subsets: [{name: v1, labels: {version: none}}, {name: v3, labels: {version: v3}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: z-oldest, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example], tls: {mode: SIMPLE, credentialName: one}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a-younger, creationTimestamp: "2026-01-02T00:00:00Z"}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: tcp, protocol: TCP}, hosts: ["*"]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example], tls: {mode: SIMPLE, credentialName: two}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bound, creationTimestamp: "2026-01-03T00:00:00Z"}
spec: {hosts: ["*"], gateways: [a-younger, z-oldest], http: [{route: [{destination: {host: db}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: also-bound, creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {hosts: ["*"], gateways: [z-oldest, a-younger], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: oldest, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  hosts: [api.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.9.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: another, creationTimestamp: "2026-01-02T00:00:00Z"}
spec:
  hosts: [api.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.9.0.2}]
"""
RESOURCES = read_text(DOCUMENTS).resources
CATALOG = Catalog(
    {
        f"{name}.service.consul": Service(
            name,
            f"{name}.service.consul",
            (Port(9080, Protocol.HTTP),),
            tuple(
                Endpoint(f"10.0.{n}.{i}", 9080, labels={"version": f"v{i}"})
                for i in (1, 2)
            ),
        )
        for n, name in enumerate(("web", "db"))
    }
)
LABELS = {"istio": "ingressgateway"}
OWN = Workload("1", "shop/front-1", ports=(ServedPort("f", 80),))
SIDECAR = Proxy("shop/front-1", address="10.1.0.1", workload=OWN)
EDGE = Proxy("shop/gateway", WorkloadKind.GATEWAY, address="10.1.0.2", labels=LABELS)
PROXIES = (SIDECAR, EDGE)


def shuffled(seed: int) -> list[Any]:
    return Random(seed).sample(RESOURCES, len(RESOURCES))


def versions(translator: Translator) -> tuple[object, ...]:
    snapshots = [translator.snapshot(proxy) for proxy in PROXIES]
    return tuple(
        getattr(s, field).version
        for s in snapshots
        for field in ("clusters", "endpoints", "listeners", "routes")
    )


def started_with(resources: list[Any]) -> Translator:
    translator = Translator()
    translator.update(build_mesh(CATALOG, config=istio_config(resources)))
    return translator


def unpacked(snapshot: Snapshot, field: str, name: str) -> Any:
    message = {
        "routes": route_pb2.RouteConfiguration,
        "listeners": listener_pb2.Listener,
    }[field]()
    resource = next(r for r in getattr(snapshot, field).values() if r.name == name)
    assert any_pb2.Any.FromString(resource.any_bytes).Unpack(message)
    return message


def test_the_order_of_loading_decides_nothing() -> None:
    assert len(RESOURCES) == 11
    seen = {versions(started_with(shuffled(seed))) for seed in range(SHUFFLES)}
    assert len(seen) == 1


@pytest.mark.parametrize("seed", range(3))
def test_resources_that_come_one_by_one_end_in_what_a_restart_gives(seed: int) -> None:
    translator, mesh = Translator(), None
    for resources in accumulate(
        ([resource] for resource in shuffled(seed)), lambda known, new: known + new
    ):
        mesh = build_mesh(CATALOG, config=istio_config(resources), previous=mesh)
        translator.update(mesh)
        for proxy in PROXIES:
            translator.snapshot(proxy)
    assert versions(translator) == versions(started_with(RESOURCES))


def test_the_oldest_wins() -> None:
    translator = started_with(RESOURCES[::-1])
    hosts = unpacked(translator.snapshot(SIDECAR), "routes", "9080").virtual_hosts
    routes = {host.name: host.routes[0].route for host in hosts}
    assert routes["web.service.consul:9080"].timeout.seconds == 1
    assert routes["db.service.consul:9080"].timeout.seconds == 2
    http, https = (
        unpacked(translator.snapshot(EDGE), "listeners", f"0.0.0.0_{port}")
        for port in (80, 443)
    )
    assert [f.name for f in http.filter_chains[0].filters][
        -1
    ] == "envoy.filters.network.http_connection_manager"
    assert len(https.filter_chains) == 1
    assert "kubernetes://one" in str(https) and "kubernetes://two" not in str(https)
    losers = {
        r: [f.message for f in translator.findings(r)]
        for r in ("Gateway default/a-younger",)
    }
    assert len(losers["Gateway default/a-younger"]) == 2
