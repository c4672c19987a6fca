"""What a RateLimit of mode GLOBAL becomes: filters that ask, and the limiter's half; and which of the
two a change touches.
"""

from __future__ import annotations

from typing import Any

from meshes import as_dict, catalog, edge, service, sidecar

from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.model.rate_limits import LimitNode, Rate
from dockermesh.translate.mesh.state import MeshState, build_mesh
from dockermesh.translate.security.global_limits import (
    is_limiter_asked,
    limiter_domains,
)
from dockermesh.translate.translator import Translator

LIMITS = """
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: few, namespace: default}}
spec:
  mode: {mode}
  limits:
  - {{name: all, requests: {requests}}}
  - {{name: busy, requests: 1, response: {{status: 503}}}}
  - name: pairs
    requests: 3
    by: [{{header: a}}, {{header: b}}]
    named:
    - {{values: [x, y], requests: 5}}
    - {{values: [x, z], requests: 7}}
"""
MENTION = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: calls, namespace: istio-system}
spec:
  configPatches:
  - applyTo: CLUSTER
    patch:
      operation: ADD
      value:
        name: limiter
        type: STRICT_DNS
        load_assignment:
          cluster_name: limiter
          endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address:
            {address: ratelimit.shop.svc.cluster.local, port_value: 8081}}}}]}]
"""


def mesh(config: str) -> MeshState:
    known = catalog([service("reviews", "172.28.0.7")], [])
    return build_mesh(known, config=edge(config))


def told(config: str) -> Any:
    translator = Translator()
    translator.update(mesh(config))
    return translator.snapshot(sidecar("web-1"))


def clusters(config: str) -> dict[str, Any]:
    return {c["name"]: c for c in as_dict(told(config))["clusters"]}


def limits(mode: str = "GLOBAL", requests: int = 5) -> str:
    return LIMITS.format(mode=mode, requests=requests)


def test_a_cluster_leads_to_the_limiter_where_it_is_asked_and_nowhere_else() -> None:
    made = clusters(limits())["RateLimiterCluster"]
    assert CONTROL_PLANE_HOST in str(made["loadAssignment"])
    assert CONTROL_PLANE_HOST in str(made["transportSocket"])
    assert "RateLimiterCluster" not in clusters(limits("LOCAL"))


def test_other_numbers_change_nothing_in_proxies() -> None:
    one, other = told(limits(requests=5)), told(limits(requests=50))
    assert one.listeners.version == other.listeners.version
    assert one.clusters.version == other.clusters.version


def test_the_limiters_half_has_a_place_for_each_pair_of_values() -> None:
    tree = limiter_domains(mesh(limits()).config)[CONTROL_PLANE_HOST, "default/few"]

    def amount(*entries: tuple[str, str]) -> int | None:
        node: LimitNode | None = tree
        for key, value in entries:
            node = node.follow(key, value) if node is not None else None
        if node is None or node.limit is None:
            return None
        assert isinstance(node.limit.rate, Rate)
        return node.limit.rate.requests

    assert amount(("limit", "all")) == 5
    pairs = ("limit", "pairs")
    assert amount(pairs, ("a", "x"), ("b", "y")) == 5
    assert amount(pairs, ("a", "x"), ("b", "z")) == 7
    assert amount(pairs, ("a", "x"), ("b", "other")) == 3
    assert amount(pairs, ("a", "other"), ("b", "y")) == 3
    assert amount(pairs, ("a", "x")) is None


def test_the_limiter_is_needed_where_something_asks_it() -> None:
    assert not is_limiter_asked(mesh(limits("LOCAL")).config)
    assert is_limiter_asked(mesh(limits()).config)
    assert is_limiter_asked(mesh(MENTION).config)


def test_a_patch_that_calls_it_by_name_is_led_there_unless_the_name_is_somebodys() -> (
    None
):
    made = clusters(MENTION)["limiter"]
    assert CONTROL_PLANE_HOST in str(made["loadAssignment"])
    assert "ratelimit.shop.svc.cluster.local" in str(made["transportSocket"])

    entry = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mine, namespace: shop}
spec:
  hosts: [ratelimit.shop.svc.cluster.local]
  ports: [{number: 8081, name: grpc, protocol: GRPC}]
  resolution: STATIC
  endpoints: [{address: 10.1.1.1}]
"""
    made = clusters(MENTION + entry)["limiter"]
    assert "transportSocket" not in made
