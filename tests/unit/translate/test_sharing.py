"""Proxies share resources by their sharing keys (`Scope`, `Inbound`, `Inputs`), so everything about a
proxy that a resource depends on has to be in a key.

Whoever makes a resource depend on one more thing adds it to `DIFFERENT` here: if it is in no key,
the proxy that asks second is told what was made for the first, and this test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from types import MappingProxyType

import pytest
from meshes import (
    GATEWAY_AT_80,
    catalog,
    edge,
    gateway,
    service,
    sidecar,
    versions,
    workload,
)

from dockermesh.model import ProxyMode, WorkloadKind
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

CONFIG = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: by-source}
spec:
  hosts: [reviews]
  http:
    - {match: [{sourceLabels: {tier: gold}}], timeout: 1s, route: [{destination: {host: reviews}}]}
    - {match: [{sourceNamespace: shop}], timeout: 2s, route: [{destination: {host: reviews}}]}
    - {route: [{destination: {host: reviews}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: near}
spec:
  host: reviews
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3}
    loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: quiet}
spec: {egress: [{hosts: ["./*"]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {selector: {matchLabels: {tier: closed}}, action: DENY, rules: [{}]}
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: few}
spec: {selector: {matchLabels: {tier: limited}}, limits: [{name: all, requests: 1}]}
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: of-a-service}
spec: {targetRefs: [{kind: Service, name: shown}], limits: [{name: all, requests: 1}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logged}
spec: {selector: {matchLabels: {tier: gold}}, accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logged, namespace: quiet}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: by-metadata, namespace: istio-system}
spec:
  configPatches:
    - applyTo: CLUSTER
      match: {proxy: {metadata: {team: red}}, cluster: {service: reviews.service.consul}}
      patch: {operation: MERGE, value: {connect_timeout: 7s}}
"""
PLAIN = sidecar("front-1", 9080)
DIFFERENT: dict[str, Callable[[Proxy], Proxy]] = {
    "namespace": lambda p: _moved(p, "shop"),
    "labels": lambda p: replace(p, labels=MappingProxyType({"tier": "gold"})),
    "workload": lambda p: replace(
        p, workload=replace(sidecar("front-2", 9080, 9090).workload)
    ),
    "workload's mode": lambda p: replace(
        p, workload=replace(p.workload, mode=ProxyMode.NODE)
    ),
    "locality": lambda p: replace(p, locality="us/west/1"),
    "metadata": lambda p: replace(p, metadata=MappingProxyType({"team": "red"})),
    "has_certificate": lambda p: replace(p, has_certificate=False),
    "kind": lambda _p: gateway({"istio": "ingressgateway"}),
}
WITHOUT_EFFECT = {"id", "address"}
"""Replicas differ in these, and are to share everything."""


def _moved(proxy: Proxy, namespace: str) -> Proxy:
    assert proxy.workload is not None
    own = replace(proxy.workload, namespace=namespace)
    return replace(proxy, namespace=namespace, workload=own)


def _translator() -> Translator:
    made = Translator()
    reviews = service("reviews", "10.0.0.1", "10.0.0.2")
    places = ("eu/west/1", "us/west/1")
    spread = tuple(
        replace(e, locality=place)
        for e, place in zip(reviews.endpoints, places, strict=True)
    )
    services = [replace(reviews, endpoints=spread), service("ratings", "10.0.0.3")]
    assert PLAIN.workload is not None
    # They have proxies: who has no certificate cannot call them as others do.
    meshed = [
        workload(f"reviews-{n}", 9080, address=f"10.0.0.{n}", token_sha256="a" * 64)
        for n in (1, 2)
    ]
    made.update(
        build_mesh(catalog(services, [PLAIN.workload, *meshed]), config=edge(CONFIG))
    )
    return made


def test_every_field_of_a_proxy_is_considered() -> None:
    told = {case.partition("'")[0] for case in DIFFERENT}
    assert {field.name for field in fields(Proxy)} == told | WITHOUT_EFFECT


@pytest.mark.parametrize("field", DIFFERENT)
def test_a_proxy_is_told_the_same_whoever_asked_before(field: str) -> None:
    other = DIFFERENT[field](PLAIN)
    shared = _translator()
    first = versions(shared.snapshot(PLAIN))

    found = versions(shared.snapshot(other))
    assert found == versions(_translator().snapshot(other))
    assert found != first, (
        "this case would prove nothing: the two are told the same anyway"
    )


def _tier(name: str) -> Proxy:
    return replace(PLAIN, labels=MappingProxyType({"tier": name}))


def _serving(service: str) -> Proxy:
    assert PLAIN.workload is not None
    ports = tuple(replace(p, service=service) for p in PLAIN.workload.ports)
    return replace(PLAIN, workload=replace(PLAIN.workload, ports=ports))


@pytest.mark.parametrize(
    "other",
    [_moved(PLAIN, "quiet"), _tier("closed"), _tier("limited"), _serving("shown")],
    ids=["sidecar", "policy", "limit", "limit of a service"],
)
def test_so_it_is_for_what_selects_proxies(other: Proxy) -> None:
    shared = _translator()
    first = versions(shared.snapshot(PLAIN))

    found = versions(shared.snapshot(other))
    assert found == versions(_translator().snapshot(other))
    assert found != first


def test_gateways_on_networks_of_their_own_know_their_own_bridges_alone() -> None:
    plain = gateway({"istio": "ingressgateway"})
    assert plain.workload is not None
    one, other = (
        replace(plain, workload=replace(plain.workload, bridges=bridges))
        for bridges in (("172.20.0.1",), ("172.21.0.1", "fd00::1"))
    )

    def told(*proxies: Proxy) -> list[object]:
        made = Translator()
        made.update(
            build_mesh(catalog([service("a", "10.0.0.1")]), config=edge(GATEWAY_AT_80))
        )
        return [versions(made.snapshot(proxy)) for proxy in proxies]

    alone = [told(proxy)[0] for proxy in (plain, one, other)]
    assert told(plain, one, other) == alone
    assert alone[0] != alone[1] != alone[2]


def test_replicas_share_what_they_are_told() -> None:
    replica = replace(PLAIN, id="shop/front-2", address="172.28.0.77")
    shared = _translator()
    assert versions(shared.snapshot(PLAIN)) == versions(shared.snapshot(replica))
    assert PLAIN.kind is WorkloadKind.SIDECAR
