"""What of valid resources has no effect is told of each resource by name, and why."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace

import pytest
from meshes import edge, gateway, mesh, service

from dockermesh.config.api.mesh_config import MeshConfig
from dockermesh.translate.mesh import settings
from dockermesh.translate.mesh.findings import Reason
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.translator import Translator


def rule(
    name: str,
    host: str = "reviews",
    spec: str = "",
    *,
    namespace: str = "default",
    created: str = "",
) -> str:
    stamp = f", creationTimestamp: '2026-01-0{created}T00:00:00Z'" if created else ""
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}{stamp}}}
spec: {{hosts: [{host}], {spec or "http: [{route: [{destination: {host: reviews}}]}]"}}}
"""


def destination_rule(name: str, spec: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec: {{host: reviews, {spec}}}
"""


def gateway_of(name: str, port: int, protocol: str, more: str = "hosts: ['*']") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: web, protocol: {protocol}}}, {more}}}]
"""


def state(*texts: str) -> MeshState:
    return mesh(service("reviews", "10.0.0.2"), config="---\n".join(texts))


def told(*texts: str) -> Translator:
    translator = Translator()
    translator.update(state(*texts))
    translator.snapshot(gateway({"istio": "ingressgateway"}))
    return translator


def faults(resource: str, *texts: str) -> list[tuple[Reason, str]]:
    return [(fault.reason, fault.message) for fault in told(*texts).findings(resource)]


def test_of_two_virtual_services_for_a_host_the_younger_is_told_of_the_older() -> None:
    texts = (rule("a", created="2"), rule("b", "reviews.service.consul", created="1"))
    [(reason, message)] = faults("VirtualService default/a", *texts)
    assert reason is Reason.CONFLICTED
    assert "spec.hosts[0]" in message and "VirtualService default/b" in message
    assert faults("VirtualService default/b", *texts) == []


@pytest.mark.parametrize(
    "other",
    [
        rule("b", "ratings"),
        rule(
            "b",
            spec="gateways: [edge], http: [{route: [{destination: {host: reviews}}]}]",
        ),
        rule(
            "b",
            "reviews.service.consul",
            "exportTo: [.], http: [{route: [{destination: {host: reviews}}]}]",
        ),
    ],
)
def test_rules_that_never_meet_do_not_conflict(other: str) -> None:
    elsewhere = rule(
        "a",
        "reviews.service.consul",
        "exportTo: [shop], http: [{route: [{destination: {host: reviews}}]}]",
    )
    assert faults("VirtualService default/b", elsewhere, other) == []


def test_a_rule_for_one_namespace_meets_one_for_all_there() -> None:
    own = "exportTo: [.], http: [{route: [{destination: {host: reviews}}]}]"
    older = rule("a", "reviews.service.consul", own, namespace="shop")
    assert (
        len(
            faults(
                "VirtualService zoo/b",
                older,
                rule("b", "reviews.service.consul", namespace="zoo"),
            )
        )
        == 1
    )


@pytest.mark.parametrize(
    ("delegate", "why"),
    [
        ("", "there is no VirtualService shop/part"),
        (rule("part", "ratings", namespace="shop"), "has hosts, so it is no delegate"),
        (
            rule(
                "part",
                "",
                "exportTo: [.], http: [{route: [{destination: {host: reviews}}]}]",
                namespace="shop",
            ),
            "is not exported to namespace default",
        ),
        (rule("part", "", namespace="shop"), ""),
    ],
)
def test_a_delegate_that_cannot_be_used_is_told(delegate: str, why: str) -> None:
    root = rule("root", spec="http: [{delegate: {name: part, namespace: shop}}]")
    found = faults("VirtualService default/root", *filter(None, (root, delegate)))
    assert [reason for reason, _ in found] == [Reason.REFERENCE_NOT_FOUND] * bool(why)
    assert all(
        why in message and message.startswith("spec.http[0].delegate: ")
        for _, message in found
    )


def test_policies_and_subsets_that_an_older_destination_rule_has_are_told() -> None:
    policy = "trafficPolicy: {loadBalancer: {simple: RANDOM}}"
    first = destination_rule(
        "a", f"{policy}, subsets: [{{name: v1, labels: {{version: v1}}}}]"
    )
    more = "{name: v1, labels: {version: v3}}"
    second = destination_rule(
        "b", f"{policy}, subsets: [{{name: v2, labels: {{version: v2}}}}, {more}]"
    )
    found = faults("DestinationRule default/b", first, second)
    assert [message.partition(":")[0] for _, message in found] == [
        "spec.trafficPolicy",
        "spec.subsets[1]",
    ]
    assert faults("DestinationRule default/a", first, second) == []


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (
            ("HTTP", "hosts: ['*']"),
            ("TCP", "hosts: ['*']"),
            "server web (port 80) has the port",
        ),
        (
            ("TCP", "hosts: ['*']"),
            ("TCP", "hosts: ['*']"),
            "server web (port 80) has the port",
        ),
        (
            (
                "HTTPS",
                "hosts: [a.example, b.example], tls: {mode: SIMPLE, credentialName: c}",
            ),
            (
                "HTTPS",
                "hosts: [b.example, c.example], tls: {mode: SIMPLE, credentialName: c}",
            ),
            "b.example is served by",
        ),
        (("HTTP", "hosts: ['*']"), ("HTTP", "hosts: ['*']"), ""),
    ],
)
def test_servers_that_an_older_gateway_leaves_no_room_are_told(
    first: tuple[str, str], second: tuple[str, str], why: str
) -> None:
    texts = (gateway_of("a", 80, *first), gateway_of("b", 80, *second))
    found = faults("Gateway default/b", *texts)
    assert [reason for reason, _ in found] == [Reason.CONFLICTED] * bool(why)
    assert all(
        why in message and "Gateway default/a" in message for _, message in found
    )
    assert faults("Gateway default/a", *texts) == []


def test_a_server_name_that_another_rule_passes_on_is_told() -> None:
    passing = gateway_of(
        "edge", 443, "TLS", "hosts: ['*.example'], tls: {mode: PASSTHROUGH}"
    )
    tls = (
        "gateways: [edge], tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host:"
        " reviews}}]}]"
    )
    [(reason, message)] = faults(
        "VirtualService default/b",
        passing,
        rule("a", "a.example", tls),
        rule("b", "a.example", tls),
    )
    assert reason is Reason.CONFLICTED and "VirtualService default/a" in message


@pytest.mark.parametrize("labels", ["", "{app: reviews}"])
@pytest.mark.parametrize(
    ("kind", "api", "selector"),
    [
        ("Sidecar", "networking", "workloadSelector: {labels: %s}, "),
        ("PeerAuthentication", "security", "selector: {matchLabels: %s}, "),
    ],
)
def test_of_two_for_the_same_workloads_the_younger_is_told(
    kind: str, api: str, selector: str, labels: str
) -> None:
    more = "egress: [{hosts: ['*/*']}]" if kind == "Sidecar" else "mtls: {mode: STRICT}"
    spec = f"{selector % labels if labels else ''}{more}"
    texts = [
        f"apiVersion: {api}.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace:"
        f" shop}}\nspec: {{{spec}}}\n"
        for name in "ab"
    ]
    [(reason, message)] = faults(f"{kind} shop/b", *texts)
    assert reason is Reason.CONFLICTED and f"{kind} shop/a" in message
    assert faults(f"{kind} shop/a", *texts) == []


def test_faults_end_with_their_cause() -> None:
    translator = told(rule("a"), rule("b"))
    assert translator.findings("VirtualService default/b")
    translator.update(replace(state(), config=edge(rule("b"))))
    assert translator.findings("VirtualService default/b") == ()


def test_nothing_is_told_before_the_first_state() -> None:
    assert Translator().findings("VirtualService default/a") == ()


def test_settings_that_nothing_reads_are_told() -> None:
    config = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: %s, creationTimestamp: '2026-01-0%dT00:00:00Z'}
spec: {connectTimeout: 3s, enablePrometheusMerge: true, defaultConfig: {concurrency: 2, gatewayTopology: {},
  holdApplicationUntilProxyStarts: true, terminationDrainDuration: 5s}}
"""
    first, second = config % ("first", 1), config % ("second", 2)
    assert faults("MeshConfig default/first", second, first) == [
        (Reason.NOT_TRANSLATED, "spec.enablePrometheusMerge: has no effect yet"),
        (
            Reason.NOT_TRANSLATED,
            "spec.defaultConfig.terminationDrainDuration: has no effect yet",
        ),
    ]
    ((reason, message),) = faults("MeshConfig default/second", second, first)
    assert reason is Reason.CONFLICTED
    assert "MeshConfig default/first" in message


def test_a_policy_whose_authorizer_nobody_knows_is_told() -> None:
    policy = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}
"""
    ((reason, message),) = faults("AuthorizationPolicy default/ask", policy)
    assert (reason, "opa" in message) == (Reason.REFERENCE_NOT_FOUND, True)
    provider = "{name: opa, envoyExtAuthzGrpc: {service: opa.default.svc.cluster.local, port: 9000}}"
    known = f"{{kind: MeshConfig, spec: {{extensionProviders: [{provider}]}}}}\n"
    ((reason, message),) = faults("AuthorizationPolicy default/ask", policy, known)
    assert (reason, "no service opa" in message) == (Reason.REFERENCE_NOT_FOUND, True)
    there = known.replace("opa.default.svc.cluster.local", "reviews")
    assert faults("AuthorizationPolicy default/ask", policy, there) == []


def test_kinds_that_are_only_kept_are_told() -> None:
    config = "{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {name: all}, spec: {template: {}}}"
    ((reason, message),) = faults("WorkloadGroup default/all", config)
    assert (reason, message) == (
        Reason.NOT_TRANSLATED,
        "spec: WorkloadGroup is kept, but has no effect yet",
    )


def test_of_several_proxy_configs_the_oldest_counts_and_an_image_is_no_choice() -> None:
    config = """
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: %s, creationTimestamp: '2026-01-0%dT00:00:00Z'}
spec: {concurrency: 2, %s}
"""
    first, second = (
        config % ("a", 1, ""),
        config % ("b", 2, "image: {imageType: debug}"),
    )
    other = config % ("c", 3, "selector: {matchLabels: {app: web}}")
    assert faults("ProxyConfig default/a", second, first, other) == []
    assert faults("ProxyConfig default/c", second, first, other) == []
    found = dict(faults("ProxyConfig default/b", second, first, other))
    assert "ProxyConfig default/a" in found[Reason.CONFLICTED]
    assert found[Reason.NOT_TRANSLATED].startswith("spec.image: has no effect")


def test_all_settings_are_read_or_told() -> None:
    """A field of MeshConfig is either used by `with_mesh_config`, or named as being without
    effect.
    """
    source = inspect.getsource(settings.with_mesh_config)
    unread = {f.name for f in fields(MeshConfig) if f"config.{f.name}" not in source}
    assert unread == set(settings._WITHOUT_EFFECT)


def test_policies_that_ask_several_authorizers_about_one_workload_are_told() -> None:
    def asking(name: str, provider: str, labels: str, namespace: str) -> str:
        selector = f"selector: {{matchLabels: {labels}}}, " if labels else ""
        return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{selector}action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}
"""

    settings = "{service: reviews.service.consul, port: 9000}"
    providers = ", ".join(
        f"{{name: {n}, envoyExtAuthzGrpc: {settings}}}" for n in ("x", "y")
    )
    known = f"kind: MeshConfig\nspec: {{extensionProviders: [{providers}]}}\n"
    first = asking("a", "x", "{app: web}", "shop")

    def told_of(*second: str) -> bool:
        found = faults("AuthorizationPolicy shop/a", known, first, asking("b", *second))
        assert all(
            reason is Reason.CONFLICTED and "/b names another authorizer" in message
            for reason, message in found
        )
        return bool(found)

    assert told_of("y", "{app: web}", "shop")
    assert told_of("y", "", "shop")
    assert told_of("y", "{app: web, version: v1}", "shop")
    assert told_of("y", "", "istio-system")
    assert not told_of("x", "{app: web}", "shop")
    assert not told_of("y", "{app: other}", "shop")
    assert not told_of("y", "{app: web}", "elsewhere")
