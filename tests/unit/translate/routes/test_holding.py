"""That no app saw a request is believed of proxies of the mesh alone: else any app could have a
request sent to it again and again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from meshes import as_dict, catalog, edge, gateway, service, sidecar, workload

from dockermesh.model import Endpoint, Service
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

ONE = workload("reviews-1", 9080, address="10.0.0.1")
REVIEWS = service("reviews", "10.0.0.1")
PLAIN = Endpoint("10.0.0.7", 9080)
CLIENT = sidecar("front-1", 80)


def rule(kind: str, spec: str, group: str = "networking.istio.io/v1") -> str:
    return (
        f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n---\n"
    )


DISABLED = rule("DestinationRule", "{host: reviews, trafficPolicy: {tls: {}}}")
SUBSET = rule(
    "DestinationRule",
    "{host: reviews, subsets: [{name: bare, labels: {a: b}, trafficPolicy: {tls: {}}}]}",
)
ASKED = rule(
    "DestinationRule", "{host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"
)
ROUTE = "http: [{route: [{destination: {host: reviews}}]}]"
ROUTED = rule("VirtualService", f"{{hosts: [reviews], {ROUTE}}}")
WEIGHED = rule(
    "VirtualService",
    "{hosts: [reviews], http: [{route: [{destination: {host: reviews}, weight: 50},"
    " {destination: {host: bare}, weight: 50}]}]}",
)
RETRIED = rule(
    "VirtualService",
    "{hosts: [reviews], http: [{retries: {attempts: 2}, route: [{destination: {host:"
    " reviews}}]}]}",
)
NO_PROXY = rule("PeerAuthentication", "{mtls: {mode: DISABLE}}", "security.istio.io/v1")


def believes(translator: Translator, proxy: Proxy = CLIENT) -> bool:
    """Whether requests for `reviews` are sent again because an answer says so."""
    tables = as_dict(translator.snapshot(proxy))["routes"]
    policies: list[Any] = [
        route["route"]["retryPolicy"]
        for table in tables
        for host in table["virtualHosts"]
        if "reviews" in host["name"] or proxy.kind.value == "router"
        for route in host["routes"]
    ]
    assert policies
    (found,) = {"retriable-headers" in p["retryOn"] for p in policies}
    assert all(("retriableHeaders" in p) is found for p in policies)
    return found


def of(
    *workloads: Any, given: Service = REVIEWS, config: str = "", before: Any = None
) -> Translator:
    translator = before or Translator()
    services = [given, service("bare", "10.0.0.8")]
    state = build_mesh(
        catalog(services, workloads),
        config=edge(config) if config else None,
        previous=translator.mesh,
    )
    translator.update(state)
    return translator


@pytest.mark.parametrize("config", ["", ASKED, ROUTED, RETRIED])
def test_a_proxy_that_answers_over_mutual_tls_is_believed(config: str) -> None:
    assert believes(of(ONE, config=config))


@pytest.mark.parametrize("config", [DISABLED, WEIGHED, NO_PROXY])
def test_who_is_called_in_plaintext_is_not(config: str) -> None:
    assert not believes(of(ONE, config=config))


@pytest.mark.parametrize("config", ["", ROUTED, RETRIED])
def test_who_has_no_proxy_is_not(config: str) -> None:
    assert not believes(of(config=config))


def test_one_endpoint_in_plaintext_is_enough_and_is_noticed() -> None:
    mixed = replace(REVIEWS, endpoints=(*REVIEWS.endpoints, PLAIN))
    translator = of(ONE, config=SUBSET)
    assert believes(translator)
    assert not believes(of(ONE, given=mixed, config=SUBSET, before=translator))


def test_a_client_without_a_certificate_believes_nobody() -> None:
    assert not believes(of(ONE), replace(CLIENT, has_certificate=False))


def test_so_it_is_at_a_gateway() -> None:
    bound = f"{{hosts: [shop.test], gateways: [edge], {ROUTE}}}"
    server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}"
    config = (
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:"
        f" {{selector: {{istio: ingressgateway}}, servers: [{server}]}}\n---\n"
    ) + rule("VirtualService", bound)
    edge_proxy = gateway({"istio": "ingressgateway"})
    translator = of(ONE, config=config)
    assert believes(translator, edge_proxy)
    assert not believes(of(config=config, before=translator), edge_proxy)
