"""Which of Istio's resources an Envoy resource of a proxy was made of."""

from __future__ import annotations

from meshes import gateway, mesh, service, workload

from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.provenance import Sources
from dockermesh.translate.translator import Translator
from dockermesh.xds import CLUSTER, LISTENER, ROUTES, SECRET

CONFIG = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews-2}
spec: {hosts: [elsewhere.example], http: [{route: [{destination: {host: ratings}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [out.example]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec: {jwtRules: [{issuer: me, jwks: '{"keys": []}'}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patch}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: reviews.service.consul}}
    patch: {operation: MERGE, value: {connect_timeout: 7s}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ["*"]
    tls: {mode: MUTUAL, credentialName: site}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: other}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""
OWN = workload("reviews-1", 9080)
SIDECAR = Proxy(OWN.name, address=OWN.address, labels=OWN.labels, workload=OWN)
EDGE = gateway({"istio": "ingressgateway"})


def sources(proxy: Proxy, type_url: str, name: str) -> Sources:
    translator = Translator()
    services = (service("reviews", "10.0.0.1"), service("ratings", "10.0.0.2"))
    translator.update(mesh(*services, config=CONFIG))
    told = translator.snapshot(proxy).of(type_url)
    return translator.sources(proxy, told, type_url, [name])


def certain(proxy: Proxy, type_url: str, name: str) -> set[str]:
    return set(sources(proxy, type_url, name).certain)


def test_routes_and_clusters_say_where_they_come_from() -> None:
    routes = certain(SIDECAR, ROUTES, "9080")
    assert routes == {"VirtualService default/reviews"}
    assert "VirtualService default/reviews-2" in certain(SIDECAR, ROUTES, "80")
    assert certain(SIDECAR, CLUSTER, "outbound|9080|v1|reviews.service.consul") == {
        "DestinationRule default/reviews",
        "EnvoyFilter default/patch",
    }
    assert certain(SIDECAR, CLUSTER, "outbound|9080||ratings.service.consul") == set()


def test_what_leaves_no_origin_follows_from_its_name_and_the_proxy() -> None:
    out = certain(SIDECAR, CLUSTER, "outbound|443||out.example")
    assert out == {"ServiceEntry default/out"}
    gateway_policies = {
        "AuthorizationPolicy default/allow",
        "RequestAuthentication default/tokens",
    }
    edge = certain(EDGE, LISTENER, "0.0.0.0_443") - gateway_policies
    assert edge == {"Gateway default/edge"}
    assert certain(EDGE, ROUTES, "http.80") == {"Gateway default/other"}
    for suffix in ("", "-cacert"):
        secret = certain(EDGE, SECRET, f"kubernetes://site{suffix}")
        assert secret == {"Gateway default/edge"}
    assert certain(SIDECAR, LISTENER, "0.0.0.0_443") == set()


def test_policies_are_known_by_their_rules() -> None:
    found = sources(SIDECAR, LISTENER, "virtualInbound")
    assert found.certain == {
        "AuthorizationPolicy default/allow",
        "RequestAuthentication default/tokens",
    }
    assert "PeerAuthentication default/strict" in found.possible
