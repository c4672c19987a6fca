"""Where RateLimits have filters, and that there are none anywhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from meshes import as_dict, catalog, edge, gateway, service, sidecar, versions

from dockermesh.config.api.rate_limit import RequestMatch
from dockermesh.config.rules.cel import check_expression
from dockermesh.model import ServedPort
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.security.limit_actions import conditions
from dockermesh.translate.translator import Translator

EDGE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 3306, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*"]
  gateways: [edge]
  tcp: [{match: [{port: 3306}], route: [{destination: {host: reviews}}]}]
---
"""


def limit(spec: str, namespace: str = "default") -> str:
    return f"""
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: few, namespace: {namespace}}}
spec: {{{spec}}}
---
"""


ALL = "limits: [{name: all, requests: 5}]"


def shop() -> Proxy:
    """A workload with two services: HTTP on 80 and 81, bytes on 90."""
    proxy = sidecar("web-1")
    assert proxy.workload is not None
    ports = (
        ServedPort("web", 80, "http"),
        ServedPort("admin", 81, "http"),
        ServedPort("web", 90, "tcp"),
    )
    return replace(proxy, workload=replace(proxy.workload, ports=ports))


def told(config: str, proxy: Proxy) -> Any:
    translator = Translator()
    assert proxy.workload is not None
    known = catalog([service("reviews", "172.28.0.7")], [proxy.workload])
    translator.update(build_mesh(known, config=edge(EDGE + config)))
    return translator.snapshot(proxy)


def filters(config: str, proxy: Proxy) -> dict[str, list[str]]:
    """The filters of ours by the port they are on; network filters as `tcp:`."""
    found: dict[str, set[str]] = {}
    for listener in as_dict(told(config, proxy))["listeners"]:
        number = str(listener["address"]["socketAddress"]["portValue"])
        for chain in listener.get("filterChains", ()):
            port = str(chain.get("filterChainMatch", {}).get("destinationPort", number))
            names = [f"tcp:{f['name']}" for f in chain["filters"]]
            for made in chain["filters"]:
                names += [f["name"] for f in made["typedConfig"].get("httpFilters", ())]
            ours = {
                n.replace("ratelimit.dockermesh.io/", "")
                for n in names
                if "ratelimit" in n
            }
            found.setdefault(port, set()).update(ours)
    return {port: sorted(names) for port, names in found.items() if names}


def test_a_limit_is_on_every_http_port_of_what_it_selects() -> None:
    config = limit(ALL)
    assert filters(config, shop()) == {
        "80": ["default/few/all"],
        "81": ["default/few/all"],
    }
    assert filters(config, gateway({"istio": "ingressgateway"})) == {
        "80": ["default/few/all"]
    }


def test_a_limit_of_a_service_is_on_its_ports_alone() -> None:
    config = limit(f"targetRefs: [{{kind: Service, name: admin}}], {ALL}")
    assert filters(config, shop()) == {"81": ["default/few/all"]}
    config = limit(f"targetRefs: [{{kind: Service, name: other}}], {ALL}")
    assert filters(config, shop()) == {}


def test_limits_of_connections_are_on_ports_of_bytes_too() -> None:
    config = limit("connections: {max: 3, perSecond: 2}")
    assert set(filters(config, shop())) == {"80", "81", "90", "15006"}
    edges = filters(config, gateway({"istio": "ingressgateway"}))
    assert edges == {"80": ["tcp:default/few/"], "3306": ["tcp:default/few/"]}


def test_envoy_takes_the_name_of_any_route() -> None:
    name = r"""a"b\c'ä😀"""
    made = RequestMatch(routes=(name,))
    (action,) = conditions(made)
    asked = expr_pb2.Descriptor()
    action.extension.typed_config.Unpack(asked)
    assert check_expression(asked.text) == ""
    assert name.replace("\\", r"\\").replace('"', r"\"") in asked.text


@pytest.mark.parametrize(
    "config",
    [
        limit(f"selector: {{matchLabels: {{app: other}}}}, {ALL}"),
        limit(ALL, namespace="elsewhere"),
        limit(f"targetRefs: [{{kind: Service, name: other}}], {ALL}"),
    ],
)
def test_who_is_not_limited_is_told_what_he_was_told_before(config: str) -> None:
    for proxy in (shop(), gateway({"istio": "ingressgateway"})):
        assert versions(told(config, proxy)) == versions(told("", proxy))


def test_the_root_namespace_limits_the_whole_mesh() -> None:
    assert filters(limit(ALL, namespace="istio-system"), shop())


def test_a_limit_says_which_listeners_it_is_in() -> None:
    proxy = shop()
    translator = Translator()
    assert proxy.workload is not None
    known = catalog((), [proxy.workload])
    translator.update(build_mesh(known, config=edge(limit(ALL))))
    snapshot = translator.snapshot(proxy)
    found = translator.sources(
        proxy,
        snapshot.listeners,
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        ["virtualInbound"],
    )
    assert "RateLimit default/few" in found.certain


def reasons(config: str, *proxies: Proxy) -> list[str]:
    translator = Translator()
    known = catalog((), [p.workload for p in proxies if p.workload is not None])
    index = edge(config)
    translator.update(build_mesh(known, config=index))
    (resource,) = index.rate_limits
    return [str(f.reason) for f in translator.findings(str(resource))]


def test_a_limit_for_nobody_is_not_accepted() -> None:
    edges = gateway({"istio": "ingressgateway"})
    selects = f"selector: {{matchLabels: {{istio: ingressgateway}}}}, {ALL}"
    assert reasons(limit(selects), shop()) == ["NoWorkloads"]
    assert reasons(limit(selects), shop(), edges) == []
    assert reasons(limit(selects, namespace="elsewhere"), edges) == ["NoWorkloads"]
    assert reasons(limit(selects, namespace="istio-system"), edges) == []

    serves = f"targetRefs: [{{kind: Service, name: admin}}], {ALL}"
    assert reasons(limit(serves), edges) == ["NoWorkloads"]
    assert reasons(limit(serves), shop()) == []
    # Nothing has to be there yet for what is for all.
    assert reasons(limit(ALL, namespace="istio-system")) == []
