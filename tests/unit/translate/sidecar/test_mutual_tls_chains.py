"""Mutual TLS towards services: which endpoints, which identities, and what a DestinationRule
changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from meshes import catalog, edge, gateway, messages, service, sidecar, workload

from dockermesh.model import Endpoint, Port, Protocol, Workload
from dockermesh.translate.mesh.stand_in import REFUSING
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator

HOST = "reviews.service.consul"
ONE, TWO = (
    workload("reviews-1", 9080, address="10.0.0.1"),
    workload("reviews-2", 9080, address="10.0.0.2"),
)
REVIEWS = service("reviews", "10.0.0.1", "10.0.0.2")
CLIENT = sidecar("front-1", 80)


def resource(
    kind: str, spec: str, name: str = "own", group: str = "networking.istio.io/v1"
) -> str:
    return f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def rule(policy: str, more: str = "") -> str:
    return resource(
        "DestinationRule", f"{{host: reviews, trafficPolicy: {policy}{more}}}"
    )


BESIDE = resource(
    "DestinationRule",
    "{host: reviews, subsets: [{name: bare, labels: {bare: is}, trafficPolicy: {tls: {}}}]}",
)
"""Replicas without a proxy are wanted beside others."""


def disable(labels: str = "{app: reviews}") -> str:
    spec = f"{{selector: {{matchLabels: {labels}}}, mtls: {{mode: DISABLE}}}}"
    return resource("PeerAuthentication", spec, group="security.istio.io/v1")


def of(*workloads: Workload, config: str = "", services: Any = (REVIEWS,)) -> MeshState:
    return build_mesh(
        catalog(services, workloads), config=edge(config) if config else None
    )


def clusters(state: MeshState, proxy: Proxy = CLIENT) -> dict[str, cluster_pb2.Cluster]:
    translator = Translator()
    translator.update(state)
    return messages(translator.snapshot(proxy), "clusters")


def cluster(
    state: MeshState, subset: str = "", proxy: Proxy = CLIENT
) -> cluster_pb2.Cluster:
    return clusters(state, proxy)[f"outbound|9080|{subset}|{HOST}"]


def context(socket: Any) -> tls_pb2.UpstreamTlsContext:
    made = tls_pb2.UpstreamTlsContext()
    assert socket.typed_config.Unpack(made)
    return made


def mutual(made: cluster_pb2.Cluster) -> tls_pb2.UpstreamTlsContext:
    """The TLS context for endpoints that take mutual TLS; all others get plaintext, if there are
    any.
    """
    if made.HasField("transport_socket"):
        assert not made.transport_socket_matches
        return context(made.transport_socket)
    secured, plain = made.transport_socket_matches
    assert dict(secured.match) == {"tlsMode": "istio"}
    assert not dict(plain.match)
    assert plain.transport_socket.name == "envoy.transport_sockets.raw_buffer"
    return context(secured.transport_socket)


def accepted(tls: tls_pb2.UpstreamTlsContext) -> list[str]:
    validation = (
        tls.common_tls_context.combined_validation_context.default_validation_context
    )
    return [
        m.matcher.exact or f"{m.matcher.prefix}*"
        for m in validation.match_typed_subject_alt_names
    ]


def secured(state: MeshState, translator: Translator | None = None) -> dict[str, bool]:
    """By address of an endpoint: whether it is called over mutual TLS."""
    translator = translator or Translator()
    translator.update(state)
    made = messages(translator.snapshot(CLIENT), "endpoints")[f"outbound|9080||{HOST}"]
    found = {}
    for group in made.endpoints:
        for e in group.lb_endpoints:
            mark = e.metadata.filter_metadata.get("envoy.transport_socket_match")
            found[e.endpoint.address.socket_address.address] = (
                mark is not None and mark["tlsMode"] == "istio"
            )
    return found


# which endpoints
# --------------------------------------------------------------------------------------------------


def test_endpoints_of_attested_workloads_are_called_over_mutual_tls_and_others_beside_them_if_told() -> (
    None
):
    assert secured(of(ONE, TWO)) == {"10.0.0.1": True, "10.0.0.2": True}
    assert secured(of(ONE)) == {"10.0.0.1": True}
    assert secured(of(ONE, config=BESIDE)) == {"10.0.0.1": True, "10.0.0.2": False}
    assert secured(of()) == {"10.0.0.1": False, "10.0.0.2": False}


def test_a_service_without_proxies_costs_no_tls() -> None:
    assert not cluster(of()).transport_socket_matches


def test_a_port_that_takes_no_tls_is_called_in_plaintext() -> None:
    labelled = replace(ONE, labels={"app": "reviews"})
    assert secured(of(labelled, TWO, config=disable())) == {
        "10.0.0.1": False,
        "10.0.0.2": True,
    }
    whole_mesh = resource(
        "PeerAuthentication", "{mtls: {mode: DISABLE}}", group="security.istio.io/v1"
    )
    assert not any(secured(of(ONE, TWO, config=whole_mesh)).values())


@pytest.mark.parametrize(
    "labels",
    [
        {"traffic.sidecar.istio.io/excludeInboundPorts": "80,9080"},
        {"traffic.sidecar.istio.io/includeInboundPorts": "80"},
        {"security.istio.io/tlsMode": "disabled"},
    ],
)
def test_a_port_that_does_not_go_through_the_proxy_is_called_in_plaintext(
    labels: dict[str, str],
) -> None:
    assert secured(of(replace(ONE, labels=labels), TWO)) == {
        "10.0.0.1": False,
        "10.0.0.2": True,
    }


def test_a_service_entry_says_by_label_which_endpoint_has_a_proxy() -> None:
    spec = """
  hosts: [vm.example.com]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{number: 9080, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.1.0.1, serviceAccount: vm, labels: {security.istio.io/tlsMode: istio}}
  - {address: 10.1.0.2}"""
    state = of(services=(), config=resource("ServiceEntry", spec))
    made = state.services["vm.example.com"]
    assert [e.takes_mtls for e in made.endpoints] == [True, False]
    found = clusters(state)["outbound|9080||vm.example.com"]
    assert accepted(mutual(found)) == ["spiffe://cluster.local/ns/default/sa/vm"]
    outside = of(
        services=(),
        config=resource("ServiceEntry", spec.replace("INTERNAL", "EXTERNAL")),
    )
    assert not clusters(outside)[
        "outbound|9080||vm.example.com"
    ].transport_socket_matches


def test_ports_to_which_a_service_entry_leads_are_taken_in_by_the_workload() -> None:
    """Their clients use mutual TLS: the workload's proxy has to end it."""
    spec = """
  hosts: [extra.example.com]
  resolution: STATIC
  ports: [{number: 7000, name: tcp, protocol: TCP}]
  workloadSelector: {labels: {app: reviews}}"""
    own = replace(ONE, labels={"app": "reviews"})
    state = of(own, config=resource("ServiceEntry", spec))
    assert [e.takes_mtls for e in state.services["extra.example.com"].endpoints] == [
        True
    ]
    found = clusters(
        state, Proxy(own.name, address=own.address, labels=own.labels, workload=own)
    )
    assert "inbound|7000||" in found


# whose identity
# --------------------------------------------------------------------------------------------------


def test_a_client_names_the_cluster_and_expects_the_accounts_of_the_services_workloads() -> (
    None
):
    tls = mutual(cluster(of(replace(ONE, service_account="bookinfo-reviews"), TWO)))
    assert tls.sni == f"outbound_.9080_._.{HOST}"
    assert accepted(tls) == [
        "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
        "spiffe://cluster.local/ns/default/sa/reviews",
    ]
    common = tls.common_tls_context
    assert [s.name for s in common.tls_certificate_sds_secret_configs] == ["default"]
    assert (
        common.combined_validation_context.validation_context_sds_secret_config.name
        == "ROOTCA"
    )
    assert list(common.alpn_protocols) == ["istio", "h2"]
    assert common.tls_params.tls_minimum_protocol_version == common.tls_params.TLSv1_2


def test_who_registers_under_a_services_name_does_not_widen_its_identities() -> None:
    evil = workload("evil-1", 9080, address="10.6.6.6")
    rogue = Endpoint("10.6.6.6", 9080, workload=evil.name, service_account="evil")
    posing = replace(REVIEWS, endpoints=(*REVIEWS.endpoints, rogue))
    state = of(ONE, TWO, evil, services=(posing,))
    assert "10.6.6.6" not in secured(state)
    assert accepted(mutual(cluster(state))) == [
        "spiffe://cluster.local/ns/default/sa/reviews"
    ]


def test_identities_of_all_trusted_domains_are_accepted() -> None:
    config = resource(
        "MeshConfig",
        "{trustDomain: new, trustDomainAliases: [old]}",
        group="mesh.istio.io/v1alpha1",
    )
    tls = mutual(cluster(of(ONE, config=config)))
    assert accepted(tls) == [
        "spiffe://new/ns/default/sa/reviews",
        "spiffe://old/ns/default/sa/reviews",
    ]


def test_http2_is_offered_where_it_is_spoken() -> None:
    grpc = service("reviews", "10.0.0.1", protocol=Protocol.GRPC)
    assert list(
        mutual(cluster(of(ONE, services=(grpc,)))).common_tls_context.alpn_protocols
    ) == [
        "istio",
        "h2",
    ]


def test_requests_to_an_undeclared_port_are_marked_as_such() -> None:
    auto = service("reviews", "10.0.0.1", ports=(Port(9080, Protocol.AUTO),))

    def told(state: MeshState) -> list[str]:
        translator = Translator()
        translator.update(state)
        tables = messages(translator.snapshot(CLIENT), "routes")
        (host,) = tables[f"{HOST}:9080"].virtual_hosts
        (route,) = host.routes
        return list(route.typed_per_filter_config)

    marked = ["envoy.filters.http.set_filter_state"]
    assert told(of(ONE, services=(auto,))) == marked
    # Also where some endpoints have no proxy; without any nobody would understand.
    assert told(of(ONE, config=BESIDE, services=(auto,))) == marked
    assert told(of(services=(auto,))) == []
    carrier = cluster(of(ONE, services=(auto,))).metadata.filter_metadata["dockermesh"]
    assert carrier["carrier"] == "h2"


# what carries requests
# ------------------------------------------------------------------------------------------------

NEGOTIATED, HTTP1 = "auto_config", "explicit_http_config"


def carried(made: cluster_pb2.Cluster) -> str:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    (packed,) = made.typed_extension_protocol_options.values()
    assert packed.Unpack(options)
    return str(options.WhichOneof("upstream_protocol_options"))


def mesh_config(policy: str) -> str:
    group = "mesh.istio.io/v1alpha1"
    return resource("MeshConfig", f"{{h2UpgradePolicy: {policy}}}", "mesh", group)


def pool(of_http: str = "", of_tcp: str = "") -> str:
    return f"{{connectionPool: {{http: {{{of_http}}}, tcp: {{{of_tcp}}}}}}}"


DO_NOT, DO = "h2UpgradePolicy: DO_NOT_UPGRADE", "h2UpgradePolicy: UPGRADE"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", NEGOTIATED),
        (mesh_config("DO_NOT_UPGRADE"), HTTP1),
        (mesh_config("DO_NOT_UPGRADE") + rule(pool(DO)), NEGOTIATED),
        (rule(pool(DO_NOT)), HTTP1),
        (mesh_config("UPGRADE") + rule(pool(DO_NOT)), HTTP1),
        (
            rule(
                f"{{portLevelSettings: [{{port: {{number: 9080}}, {pool(DO_NOT)[1:-1]}}}]}}"
            ),
            HTTP1,
        ),
        # Who says how many connections there may be means requests at once.
        (rule(pool(of_tcp="maxConnections: 3")), HTTP1),
        (rule(pool("http1MaxPendingRequests: 3")), HTTP1),
        (rule(pool(DO, "maxConnections: 3")), NEGOTIATED),
        (rule(pool("http2MaxRequests: 3, maxRequestsPerConnection: 2")), NEGOTIATED),
        (rule(pool("useClientProtocol: true")), "use_downstream_protocol_config"),
        (rule("{proxyProtocol: {version: V2}}"), HTTP1),
        (rule("{tls: {mode: ISTIO_MUTUAL}}"), NEGOTIATED),
        # Without TLS nothing is agreed on.
        (rule("{tls: {mode: DISABLE}}"), HTTP1),
        (rule("{tls: {mode: SIMPLE}}"), HTTP1),
        (disable("{}"), HTTP1),
        (BESIDE, HTTP1),
    ],
)
def test_http_2_carries_requests_between_proxies_unless_somebody_says_otherwise(
    config: str, expected: str
) -> None:
    assert carried(cluster(of(ONE, config=config))) == expected


def test_a_subset_may_say_otherwise() -> None:
    subsets = (
        f", subsets: [{{name: v1, labels: {{a: b}}, trafficPolicy: {pool(DO_NOT)}}}]"
    )
    state = of(ONE, TWO, config=rule("{loadBalancer: {simple: RANDOM}}", subsets))
    assert carried(cluster(state, "v1")) == HTTP1
    assert carried(cluster(state)) == NEGOTIATED


def test_upgrades_have_an_offer_of_their_own() -> None:
    made = cluster(of(ONE)).metadata.filter_metadata["dockermesh"]
    assert made["upgrade_protocol"] == "istio-http/1.1"
    held = cluster(of(ONE, config=rule(pool(DO_NOT))))
    assert "dockermesh" not in held.metadata.filter_metadata


def test_a_check_of_endpoints_agrees_on_http_1() -> None:
    check = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: own,"
        " annotations: {HEALTH}}\nspec: {host: reviews}\n"
    )
    annotation = 'dockermesh.io/health-check: \'{"http": {"path": "/"}}\''
    made = cluster(of(ONE, config=check.replace("HEALTH", annotation)))
    (found,) = made.health_checks
    assert found.tls_options.alpn_protocols == ["istio"]


# what a rule changes
# ------------------------------------------------------------------------------------------------


def test_a_rule_without_tls_leaves_it_automatic() -> None:
    assert mutual(cluster(of(ONE, config=rule("{loadBalancer: {simple: RANDOM}}"))))


def test_a_rule_switches_mutual_tls_off() -> None:
    made = cluster(of(ONE, config=rule("{tls: {mode: DISABLE}}")))
    assert not made.transport_socket_matches
    assert not made.HasField("transport_socket")


def test_a_subsets_rule_switches_it_off_for_the_subset_alone() -> None:
    subsets = (
        ", subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}}},"
        " {name: v2}]"
    )
    state = of(ONE, config=rule("{loadBalancer: {simple: RANDOM}}", subsets))
    assert not cluster(state, "v1").transport_socket_matches
    assert not cluster(state, "v1").HasField("transport_socket")
    assert mutual(cluster(state, "v2")).sni == f"outbound_.9080_.v2_.{HOST}"
    assert mutual(cluster(state))


def test_a_rule_that_asks_for_it_holds_for_every_endpoint() -> None:
    made = cluster(of(ONE, config=rule("{tls: {mode: ISTIO_MUTUAL}}")))
    assert not made.transport_socket_matches
    tls = context(made.transport_socket)
    assert (tls.sni, accepted(tls)) == (
        f"outbound_.9080_._.{HOST}",
        ["spiffe://cluster.local/ns/default/sa/reviews"],
    )


def test_a_rule_names_the_server_and_who_it_must_be() -> None:
    config = rule(
        "{tls: {mode: ISTIO_MUTUAL, sni: there, subjectAltNames:"
        " ['spiffe://cluster.local/ns/a/sa/b', c]}}"
    )
    tls = context(cluster(of(ONE, config=config)).transport_socket)
    assert (tls.sni, accepted(tls)) == (
        "there",
        ["spiffe://cluster.local/ns/a/sa/b", "c"],
    )


def test_mutual_tls_with_nobody_known_still_asks_for_a_member_of_the_mesh() -> None:
    tls = context(
        cluster(of(config=rule("{tls: {mode: ISTIO_MUTUAL}}"))).transport_socket
    )
    assert accepted(tls) == ["spiffe://cluster.local/*"]


def test_the_mesh_may_go_without_automatic_mutual_tls() -> None:
    config = resource(
        "MeshConfig", "{enableAutoMtls: false}", group="mesh.istio.io/v1alpha1"
    )
    assert not cluster(of(ONE, config=config)).transport_socket_matches


# who calls, and what a change touches
# -------------------------------------------------------------------------------


def test_gateways_call_over_mutual_tls_like_sidecars() -> None:
    state = of(ONE)
    assert cluster(state, proxy=gateway({"istio": "ingressgateway"})) == cluster(state)


def test_a_proxy_without_a_certificate_calls_in_plaintext() -> None:
    nobody = replace(CLIENT, has_certificate=False)
    for config in ("", rule("{tls: {mode: ISTIO_MUTUAL}}")):
        made = cluster(of(ONE, config=config), proxy=nobody)
        assert not made.transport_socket_matches
        assert not made.HasField("transport_socket")


def test_a_workload_that_is_attested_later_touches_no_listener() -> None:
    translator = Translator()
    before = of(ONE, config=BESIDE)
    assert secured(before, translator) == {"10.0.0.1": True, "10.0.0.2": False}
    old = translator.snapshot(CLIENT)
    after = build_mesh(catalog([REVIEWS], [ONE, TWO]), previous=before)
    assert secured(after, translator) == {"10.0.0.1": True, "10.0.0.2": True}
    new = translator.snapshot(CLIENT)
    assert new.listeners is old.listeners
    assert new.endpoints.version != old.endpoints.version


def test_a_policy_that_ends_mutual_tls_touches_no_listener_of_clients() -> None:
    labelled = replace(ONE, labels={"app": "reviews"})
    translator = Translator()
    before = of(labelled)
    secured(before, translator)
    old = translator.snapshot(CLIENT)
    after = build_mesh(
        catalog([REVIEWS], [labelled]), config=edge(disable()), previous=before
    )
    assert not any(secured(after, translator).values())
    assert translator.snapshot(CLIENT).listeners.version == old.listeners.version


def test_clusters_stay_when_the_last_endpoint_goes() -> None:
    translator = Translator()
    before = of(ONE)
    translator.update(before)
    old = translator.snapshot(CLIENT).clusters.version
    after = build_mesh(catalog([], [ONE]), previous=before)
    translator.update(after)
    assert translator.snapshot(CLIENT).clusters.version == old
    assert secured(after) == {REFUSING[0]: False}


def test_what_is_known_of_a_service_is_not_found_out_again() -> None:
    before = of(ONE, TWO)
    other = service("ratings", "10.0.0.7")
    after = build_mesh(catalog([REVIEWS, other], [ONE, TWO]), previous=before)
    assert after.services[HOST] is before.services[HOST]
    same = [replace(ONE, token_sha256="a" * 64), TWO]
    renewed = build_mesh(catalog([REVIEWS, other], same), previous=after)
    assert renewed.services[HOST] is before.services[HOST]
