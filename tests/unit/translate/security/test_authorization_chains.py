"""Which policies select a proxy, the filters it gets, and that what policies do not touch stays
shared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meshes import (
    as_dict,
    catalog,
    edge,
    gateway,
    mesh,
    service,
    sidecar,
    versions,
    workload,
)

from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def policy(name: str, spec: str = "{}", namespace: str = "default") -> str:
    return "---\n" + POLICY.format(name=name, namespace=namespace, spec=spec)


def reviews(**more: Any) -> Proxy:
    own = workload("reviews-1", 9080, **more)
    return Proxy(
        own.name,
        namespace=own.namespace,
        address=own.address,
        labels=own.labels,
        workload=own,
    )


def filters(translator: Translator, proxy: Proxy) -> tuple[list[str], list[str]]:
    """The names of the HTTP filters of the inbound HTTP port, and of the network filters of all
    other ports.
    """
    inbound = next(
        item
        for item in as_dict(translator.snapshot(proxy))["listeners"]
        if item["name"] == "virtualInbound"
    )
    chains = {chain["name"]: chain["filters"] for chain in inbound["filterChains"]}
    http = chains["0.0.0.0_9080"][-1]["typedConfig"]["httpFilters"]
    return [f["name"] for f in http], [f["name"] for f in chains["virtualInbound"]]


def translated(config: str = "", **more: Any) -> Translator:
    translator = Translator()
    translator.update(mesh(service("reviews", "10.0.0.1"), config=config, **more))
    return translator


def test_proxies_that_no_policy_selects_have_the_same_bytes_as_without_policies() -> (
    None
):
    plain = translated()
    policed = translated(policy("other", "{selector: {matchLabels: {app: ratings}}}"))
    assert versions(policed.snapshot(reviews())) == versions(plain.snapshot(reviews()))
    assert versions(policed.snapshot(gateway({}))) == versions(
        plain.snapshot(gateway({}))
    )


def test_replicas_with_the_same_policies_share_everything() -> None:
    translator = translated(policy("all"))
    one, two = (
        workload("reviews-1", 9080),
        workload("reviews-2", 9080, address="172.28.0.10"),
    )
    snapshots = {
        id(translator.snapshot(Proxy(w.name, address=w.address, workload=w)))
        for w in (one, two)
    }
    assert len(snapshots) == 1
    assert translator.counters.inbound == 1


def test_a_new_policy_rebuilds_inbound_listeners_of_those_it_selects_alone() -> None:
    translator = translated()
    labelled, other = (
        reviews(labels={"app": "reviews"}),
        replace(reviews(), labels={"app": "ratings"}),
    )
    before = translator.snapshot(labelled), translator.snapshot(other)
    config = edge(policy("one", "{selector: {matchLabels: {app: reviews}}}"))
    translator.update(
        build_mesh(
            catalog([service("reviews", "10.0.0.1")]),
            config=config,
            previous=translator.mesh,
        )
    )
    after = translator.snapshot(labelled), translator.snapshot(other)
    assert after[0].listeners.version != before[0].listeners.version
    assert after[1].listeners.version == before[1].listeners.version
    assert (after[0].clusters.version, after[0].routes) == (
        before[0].clusters.version,
        before[0].routes,
    )


def test_policies_select_by_labels_namespace_and_root_namespace() -> None:
    selected = "{selector: {matchLabels: {app: reviews}}}"
    for text, expected in (
        (policy("labels", selected), True),
        (policy("namespace"), True),
        (policy("root", namespace="istio-system"), True),
        (policy("root-labels", selected, namespace="istio-system"), True),
        (policy("elsewhere", namespace="other"), False),
        (
            policy(
                "other-labels", "{selector: {matchLabels: {app: reviews, version: v9}}}"
            ),
            False,
        ),
        (policy("target", "{targetRefs: [{kind: Service, name: reviews}]}"), False),
    ):
        http, network = filters(translated(text), reviews(labels={"app": "reviews"}))
        assert ("envoy.filters.http.rbac" in http) is expected, text
        assert ("envoy.filters.network.rbac" in network) is expected, text


def test_authorizers_come_first_then_tokens_then_audit_deny_and_allow() -> None:
    config = """
kind: MeshConfig
metadata: {name: mesh}
spec:
  extensionProviders:
  - name: opa
    envoyExtAuthzGrpc: {service: reviews.service.consul, port: 9080}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec: {jwtRules: [{issuer: me, jwks: '{"keys": []}'}]}
"""
    config += policy("allow", "{rules: [{}]}") + policy(
        "deny", "{action: DENY, rules: [{}]}"
    )
    config += policy("audit", "{action: AUDIT, rules: [{}]}")
    config += policy("ask", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}")
    translator = translated(config)
    http, network = filters(translator, reviews())
    assert http == [
        "envoy.filters.http.rbac",
        "envoy.filters.http.ext_authz",
        "envoy.filters.http.lua",
        "envoy.filters.http.jwt_authn",
        "envoy.filters.http.lua",
        *["envoy.filters.http.rbac"] * 3,
        "envoy.filters.http.router",
    ]
    assert network == [
        "envoy.filters.network.rbac",
        "envoy.filters.network.ext_authz",
        *["envoy.filters.network.rbac"] * 3,
        "envoy.filters.network.tcp_proxy",
    ]


def test_sidecars_without_a_workload_record_are_policed_by_their_labels() -> None:
    translator = translated(policy("one", "{selector: {matchLabels: {app: reviews}}}"))
    unknown = Proxy(
        "sidecar~10.0.0.1~x~y", address="10.0.0.1", labels={"app": "reviews"}
    )
    listed = filters(translator, unknown)
    assert "envoy.filters.http.rbac" in listed[0]
    assert (
        "envoy.filters.http.rbac"
        not in filters(translator, sidecar("reviews-1", 9080))[0]
    )


def test_resources_of_replaced_policies_are_forgotten() -> None:
    services = [service("reviews", "10.0.0.1")]
    translator = translated()
    for number in range(5):
        config = edge(
            policy(
                "one", f"{{rules: [{{to: [{{operation: {{ports: ['{number}']}}}}]}}]}}"
            )
        )
        translator.update(
            build_mesh(catalog(services), config=config, previous=translator.mesh)
        )
        translator.snapshot(reviews())
    assert len(translator._layers) <= 2
    assert len(translator._layers._made) <= 2


def test_an_authorizer_that_envoy_would_not_take_denies_what_it_should_judge() -> None:
    for settings in (
        "{service: reviews.service.consul, port: 80}",
        '{service: reviews.service.consul, port: 80, statusOnError: "299"}',
    ):
        config = (
            "kind: MeshConfig\nspec: {extensionProviders: [{name: opa, envoyExtAuthzGrpc:"
            f" {settings}}}]}}\n"
        )
        asked = filters(
            translated(
                config
                + policy("ask", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}")
            ),
            reviews(),
        )
        is_asked = "299" not in settings
        assert ("envoy.filters.http.ext_authz" in asked[0]) is is_asked
        assert "envoy.filters.http.rbac" in asked[0]


PROVIDERS = """
kind: MeshConfig
spec:
  extensionProviders:
  - {name: by-grpc, envoyExtAuthzGrpc: {service: reviews.service.consul, port: 9080}}
  - {name: by-http, envoyExtAuthzHttp: {service: reviews.service.consul, port: 9080}}
"""


def asking(*authorizers: str) -> str:
    """A policy for each, about a path of its own."""
    return PROVIDERS + "".join(
        policy(
            f"ask-{name}",
            f"{{action: CUSTOM, provider: {{name: {name}}},"
            f" rules: [{{to: [{{operation: {{paths: [/{name}]}}}}]}}]}}",
        )
        for name in authorizers
    )


def test_authorizers_of_one_workload_that_differ_deny_for_each_other() -> None:
    alone = filters(translated(asking("by-grpc")), reviews())
    assert [name for names in alone for name in names if "ext_authz" in name] == [
        "envoy.filters.http.ext_authz",
        "envoy.filters.network.ext_authz",
    ]

    translator = translated(asking("by-grpc", "by-http"))
    http, network = filters(translator, reviews())
    assert http.count("envoy.filters.http.rbac") == 2
    assert network.count("envoy.filters.network.rbac") == 2
    assert not [name for name in (*http, *network) if "ext_authz" in name]
    listeners = str(as_dict(translator.snapshot(reviews()))["listeners"])
    for name in ("by-grpc", "by-http"):
        rule = f"ns[default]-policy[ask-{name}]-rule[0]-deny-due-to-bad-CUSTOM-action"
        assert f"istio-ext-authz-{name}-{rule}" in listeners


def test_an_authorizer_whose_service_nobody_knows_denies_whatever_fail_open_says() -> (
    None
):
    nobody = asking("by-grpc").replace(
        "service: reviews.service.consul", "failOpen: true, service: opa.service.consul"
    )
    translator = translated(nobody)
    http, network = filters(translator, reviews())

    assert not [name for name in (*http, *network) if "ext_authz" in name]
    listeners = str(as_dict(translator.snapshot(reviews()))["listeners"])
    assert "policy[ask-by-grpc]-rule[0]-deny-due-to-bad-CUSTOM-action" in listeners

    known = [service("reviews", "10.0.0.1"), service("opa", "10.0.0.2")]
    config = edge(nobody)
    translator.update(
        build_mesh(catalog(known), config=config, previous=translator.mesh)
    )
    assert "envoy.filters.http.ext_authz" in filters(translator, reviews())[0]


def test_an_authorizer_is_called_by_its_hostname() -> None:
    translator = translated(asking("by-grpc"))
    listeners = str(as_dict(translator.snapshot(reviews()))["listeners"])
    assert "'authority': 'reviews.service.consul'" in listeners
