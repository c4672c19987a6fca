"""What Istio's guide to rate limits applies works as it is: its ConfigMap, its EnvoyFilters for
global limits in both of their forms, and those for local ones. Real Envoys ask the real limiter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from limiter_rig import RunningLimiter, domains_of
from patience import until
from policy_rig import (
    Certificates,
    Envoy,
    ask,
    gateway_on,
    gateway_parts,
    serve,
    service,
    sidecar_parts,
)
from ports import free_ports

pytestmark = pytest.mark.binary

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: ratelimit-config
data:
  config.yaml: |
    domain: ratelimit
    descriptors:
      - key: PATH
        value: "/productpage"
        rate_limit: {unit: minute, requests_per_unit: 1}
      - key: PATH
        value: "api"
        rate_limit: {unit: minute, requests_per_unit: 2}
      - key: PATH
        rate_limit: {unit: minute, requests_per_unit: 100}
"""
ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bookinfo}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - match: [{uri: {exact: /productpage}}, {uri: {prefix: /other}}]
    route: [{destination: {host: productpage.service.consul}}]
  - name: api
    match: [{uri: {prefix: /api/v1/products}}]
    route: [{destination: {host: productpage.service.consul}}]
"""
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: filter-ratelimit
  namespace: istio-system
spec:
  workloadSelector:
    labels:
      istio: ingressgateway
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: GATEWAY
      listener:
        filterChain:
          filter:
            name: "envoy.filters.network.http_connection_manager"
            subFilter:
              name: "envoy.filters.http.router"
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.ratelimit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
          domain: ratelimit
          failure_mode_deny: true
          timeout: 10s
          rate_limit_service:
            grpc_service:
              envoy_grpc: {CLUSTER}
            transport_api_version: V3
"""
BY_SERVICE = FILTER.replace(
    "{CLUSTER}",
    "{cluster_name: outbound|8081||ratelimit.default.svc.cluster.local,"
    " authority: ratelimit.default.svc.cluster.local}",
)
BY_CLUSTER = (
    FILTER.replace("{CLUSTER}", "{cluster_name: rate_limit_cluster}")
    + """
  - applyTo: CLUSTER
    match:
      cluster:
        service: ratelimit.default.svc.cluster.local
    patch:
      operation: ADD
      value:
        name: rate_limit_cluster
        type: STRICT_DNS
        connect_timeout: 10s
        lb_policy: ROUND_ROBIN
        http2_protocol_options: {}
        load_assignment:
          cluster_name: rate_limit_cluster
          endpoints:
          - lb_endpoints:
            - endpoint:
                address:
                  socket_address:
                    address: ratelimit.default.svc.cluster.local
                    port_value: 8081
"""
)
ACTIONS = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: filter-ratelimit-svc
  namespace: istio-system
spec:
  workloadSelector:
    labels:
      istio: ingressgateway
  configPatches:
  - applyTo: VIRTUAL_HOST
    match:
      context: GATEWAY
      routeConfiguration:
        vhost:
          name: ""
          route:
            action: ANY
    patch:
      operation: MERGE
      value:
        rate_limits:
        - actions:
          - request_headers:
              header_name: ":path"
              descriptor_key: "PATH"
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: filter-ratelimit-svc-api
  namespace: istio-system
spec:
  workloadSelector:
    labels:
      istio: ingressgateway
  configPatches:
  - applyTo: HTTP_ROUTE
    match:
      context: GATEWAY
      routeConfiguration:
        vhost:
          name: ""
          route:
            name: "api"
    patch:
      operation: MERGE
      value:
        route:
          rate_limits:
          - actions:
            - generic_key:
                descriptor_value: "api"
                descriptor_key: "PATH"
"""
LOCAL = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: filter-local-ratelimit-svc
  namespace: istio-system
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain:
          filter:
            name: "envoy.filters.network.http_connection_manager"
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
            stat_prefix: http_local_rate_limiter
            enable_x_ratelimit_headers: DRAFT_VERSION_03
            token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 60s}
            filter_enabled:
              runtime_key: local_rate_limit_enabled
              default_value: {numerator: 100, denominator: HUNDRED}
            filter_enforced:
              runtime_key: local_rate_limit_enforced
              default_value: {numerator: 100, denominator: HUNDRED}
            response_headers_to_add:
            - append_action: OVERWRITE_IF_EXISTS_OR_ADD
              header: {key: x-local-rate-limit, value: "true"}
"""


@pytest.fixture(params=[BY_SERVICE, BY_CLUSTER], ids=["by service", "by cluster"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    certificates = Certificates(tmp_path)
    limiter = RunningLimiter(certificates)
    (port,) = free_ports(1)
    config = gateway_on(port) + "\n---\n".join([ROUTES, request.param, ACTIONS])
    parts = gateway_parts(
        config, [service("productpage", serve())], settings=limiter.settings
    )
    parts["secrets"] = certificates.secrets()
    limiter.start(CONFIG_MAP)
    envoy = Envoy(tmp_path, [parts], [port])
    yield port
    envoy.stop()
    limiter.kill()


def test_the_global_sample_limits_paths_and_a_route(gateway: int) -> None:
    # Until Envoy has reached the limiter it refuses, as the sample says.
    until(lambda: ask(gateway, "/other").status == 200, "the limiter is asked", 30)

    def statuses(path: str, count: int) -> list[int]:
        return [ask(gateway, path).status for _ in range(count)]

    assert statuses("/productpage", 3) == [200, 429, 429]
    assert statuses("/other/1", 5) == [200] * 5
    found = [ask(gateway, f"/api/v1/products/{n}").status for n in range(4)]
    assert found == [200, 200, 429, 429]


def test_the_local_sample_limits_a_sidecar(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    (port,) = free_ports(1)
    parts = sidecar_parts(LOCAL, {port: ("HTTP", serve())}, [], certificates)
    envoy = Envoy(tmp_path, [parts], [port])
    try:
        found = [ask(port, "/productpage").status for _ in range(6)]
        assert found == [200] * 4 + [429] * 2
    finally:
        envoy.stop()


def test_a_config_map_is_a_limit_of_its_namespace() -> None:
    config = CONFIG_MAP.replace("metadata:", "metadata:\n  namespace: shop")
    assert [*domains_of(config)] == [("ratelimit.shop.svc.cluster.local", "ratelimit")]
