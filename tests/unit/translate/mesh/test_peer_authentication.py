"""PeerAuthentication: which mode holds where, and what a port then takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from meshes import catalog, edge, gateway, messages, workload

from dockermesh.config.api.peer_authentication import MutualTlsMode
from dockermesh.model import ServedPort
from dockermesh.translate.mesh.peer_authentication import PeerPolicies, PortModes
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

DISABLE, PERMISSIVE, STRICT = (
    MutualTlsMode.DISABLE,
    MutualTlsMode.PERMISSIVE,
    MutualTlsMode.STRICT,
)
Chain = tuple[str, str, str]
MESH_CONFIG = "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {}\n"


def policy(
    mode: str,
    *,
    namespace: str = "default",
    app: str = "",
    ports: str = "",
    day: int = 1,
) -> str:
    text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n"
    text += (
        f"  {{name: p{day}, namespace: {namespace}, creationTimestamp:"
        f" '2026-01-0{day}T00:00:00Z'}}\n"
    )
    text += f"spec:\n  mtls: {{mode: {mode}}}\n"
    if app:
        text += f"  selector: {{matchLabels: {{app: {app}}}}}\n"
    if ports:
        text += f"  portLevelMtls: {{{ports}}}\n"
    return f"{text}---\n"


def modes(*policies: str, namespace: str = "default") -> PortModes:
    found = edge("".join(policies)).peer_authentications
    return PeerPolicies(found, "istio-system").modes(
        namespace, {"app": "db", "version": "v1"}
    )


def app(*served: tuple[int, str]) -> Proxy:
    ports = tuple(ServedPort("db", port, protocol) for port, protocol in served)
    own = replace(workload("db-1", labels={"app": "db"}), ports=ports)
    return Proxy(own.name, address=own.address, labels=own.labels, workload=own)


def listener(proxy: Proxy, config: str = "") -> listener_pb2.Listener:
    translator = Translator()
    translator.update(build_mesh(catalog(), config=edge(config) if config else None))
    return messages(translator.snapshot(proxy), "listeners")["virtualInbound"]


def chains(proxy: Proxy, config: str = "", *, port: int = 0) -> list[Any]:
    found = listener(proxy, config).filter_chains
    return [
        chain
        for chain in found
        if chain.filter_chain_match.destination_port.value == port
    ]


def taken(proxy: Proxy, config: str = "", *, port: int = 0) -> list[Chain]:
    """What a port takes: transport, application protocols, and what becomes of the connection."""
    names = {
        (): "any",
        ("http/1.0", "http/1.1", "h2c"): "http",
        ("istio", "istio-peer-exchange"): "mesh bytes",
    }
    names[("istio-http/1.0", "istio-http/1.1", "istio-h2")] = "mesh requests"
    names[("istio-HTTP/1.0", "istio-HTTP/1.1")] = "mesh HTTP/1"
    made = []
    for chain in chains(proxy, config, port=port):
        match = chain.filter_chain_match
        target = (
            "http"
            if chain.filters[-1].name.endswith("http_connection_manager")
            else "bytes"
        )
        ends = " out of mTLS" if chain.HasField("transport_socket") else ""
        protocols = names.get(tuple(match.application_protocols), "mesh")
        made.append((match.transport_protocol or "any", protocols, f"{target}{ends}"))
    return made


def disabled(made: listener_pb2.Listener, inspector: str, port: int) -> bool:
    """Whether the listener does not look at connections to this port."""
    found = [
        f
        for f in made.listener_filters
        if f.name == f"envoy.filters.listener.{inspector}"
    ]
    if not found:
        return True

    def holds(predicate: Any) -> bool:
        rule = predicate.WhichOneof("rule")
        if rule == "not_match":
            return not holds(predicate.not_match)
        if rule == "or_match":
            return any(holds(p) for p in predicate.or_match.rules)
        if rule == "destination_port_range":
            return bool(
                predicate.destination_port_range.start
                <= port
                < predicate.destination_port_range.end
            )
        return False

    return holds(found[0].filter_disabled)


# which mode
# --------------------------------------------------------------------------------------------------


def test_without_a_policy_both_plaintext_and_mutual_tls_are_taken() -> None:
    assert modes() == PortModes(PERMISSIVE)


def test_the_narrower_scope_wins() -> None:
    mesh, space, own = (
        policy("STRICT", namespace="istio-system"),
        policy("DISABLE"),
        policy("PERMISSIVE", app="db"),
    )
    assert modes(mesh).default is STRICT
    assert modes(mesh, space).default is DISABLE
    assert modes(mesh, space, own).default is PERMISSIVE
    assert modes(mesh, space, own, namespace="other").default is STRICT


def test_unset_inherits_from_the_next_wider_scope() -> None:
    mesh = policy("STRICT", namespace="istio-system")
    assert modes(
        mesh, policy("UNSET"), policy("UNSET", app="db", ports="9: {mode: UNSET}")
    ) == PortModes(STRICT, ((9, STRICT),))


def test_the_oldest_policy_of_a_scope_wins_even_if_it_says_nothing() -> None:
    assert modes(policy("DISABLE", day=2), policy("STRICT", day=1)).default is STRICT
    assert (
        modes(
            policy("DISABLE", app="db", day=2), policy("STRICT", app="db", day=1)
        ).default
        is STRICT
    )
    assert modes(policy("STRICT", day=2), policy("UNSET", day=1)).default is PERMISSIVE


def test_a_port_has_its_own_mode() -> None:
    found = modes(
        policy("STRICT", app="db", ports="9000: {mode: DISABLE}, 9001: {mode: UNSET}")
    )
    assert (found.of(9000), found.of(9001), found.of(80)) == (DISABLE, STRICT, STRICT)


def test_a_selector_in_the_root_namespace_counts_for_nothing() -> None:
    assert (
        modes(
            policy("STRICT", namespace="istio-system", app="db"),
            namespace="istio-system",
        ).default
        is PERMISSIVE
    )
    assert (
        modes(policy("STRICT", namespace="istio-system", app="db")).default
        is PERMISSIVE
    )


def test_a_policy_for_others_counts_for_nothing() -> None:
    assert (
        modes(policy("STRICT", app="web"), policy("STRICT", namespace="other")).default
        is PERMISSIVE
    )


# what is then taken
# -------------------------------------------------------------------------------------------------

PLAIN_HTTP, MESH_HTTP = (
    ("raw_buffer", "any", "http"),
    ("tls", "any", "http out of mTLS"),
)
PLAIN_BYTES, MESH_BYTES, OTHER_TLS = (
    ("raw_buffer", "any", "bytes"),
    ("tls", "any", "bytes out of mTLS"),
    ("tls", "any", "bytes"),
)
SNIFFED = ("raw_buffer", "http", "http")
REQUESTS = ("tls", "mesh requests", "http out of mTLS")
SPOKEN_HTTP1 = ("tls", "mesh HTTP/1", "http out of mTLS")


@pytest.mark.parametrize(
    ("protocol", "mode", "expected"),
    [
        ("http", "DISABLE", [PLAIN_HTTP]),
        ("http", "PERMISSIVE", [("tls", "mesh", "http out of mTLS"), PLAIN_HTTP]),
        ("http", "STRICT", [MESH_HTTP]),
        ("tcp", "DISABLE", [PLAIN_BYTES]),
        (
            "tcp",
            "PERMISSIVE",
            [("tls", "mesh", "bytes out of mTLS"), PLAIN_BYTES, OTHER_TLS],
        ),
        ("tcp", "STRICT", [MESH_BYTES]),
        (
            "https",
            "PERMISSIVE",
            [("tls", "mesh", "bytes out of mTLS"), PLAIN_BYTES, OTHER_TLS],
        ),
        ("auto", "DISABLE", [SNIFFED, PLAIN_BYTES]),
        (
            "auto",
            "PERMISSIVE",
            [
                SPOKEN_HTTP1,
                REQUESTS,
                SNIFFED,
                ("tls", "mesh bytes", "bytes out of mTLS"),
                PLAIN_BYTES,
                OTHER_TLS,
            ],
        ),
        ("auto", "STRICT", [SPOKEN_HTTP1, REQUESTS, MESH_BYTES]),
    ],
)
def test_a_served_port_takes_what_its_mode_allows(
    protocol: str, mode: str, expected: list[Chain]
) -> None:
    assert taken(app((9000, protocol)), policy(mode), port=9000) == expected


def test_strict_holds_for_ports_that_nobody_declared_too() -> None:
    proxy = app((9000, "http"))
    assert taken(proxy, policy("STRICT")) == [MESH_BYTES]
    assert (
        taken(proxy, policy("PERMISSIVE"))
        == taken(proxy, policy("DISABLE"))
        == [("any", "any", "bytes")]
    )


def test_an_undeclared_port_has_its_own_mode() -> None:
    proxy = app((9000, "http"))
    assert taken(
        proxy, policy("DISABLE", app="db", ports="7000: {mode: STRICT}"), port=7000
    ) == [MESH_BYTES]
    assert taken(
        proxy, policy("STRICT", app="db", ports="7000: {mode: DISABLE}"), port=7000
    ) == [PLAIN_BYTES]


def test_a_connection_to_the_listener_itself_goes_nowhere() -> None:
    assert taken(app(), policy("STRICT"), port=15006) == [("any", "any", "bytes")]


def test_only_ports_whose_mode_needs_it_are_inspected() -> None:
    made = listener(
        app((1, "http"), (2, "tcp"), (3, "auto")),
        policy("PERMISSIVE", app="db", ports="2: {mode: DISABLE}"),
    )
    assert [disabled(made, "tls_inspector", port) for port in (1, 2, 3, 4)] == [
        False,
        True,
        False,
        True,
    ]
    assert [disabled(made, "http_inspector", port) for port in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        True,
    ]
    strict = listener(
        app((1, "http"), (2, "tcp")),
        policy("STRICT", app="db", ports="2: {mode: DISABLE}"),
    )
    assert [disabled(strict, "tls_inspector", port) for port in (1, 2, 3)] == [
        False,
        True,
        False,
    ]
    assert not [
        f
        for f in listener(app((1, "tcp")), policy("DISABLE")).listener_filters
        if "inspector" in f.name
    ]


def test_the_server_asks_for_a_certificate_of_a_trusted_domain() -> None:
    config = policy("STRICT") + MESH_CONFIG.format(
        "{trustDomain: shop.example, trustDomainAliases: [old.example]}"
    )
    (chain,) = chains(app((9000, "http")), config, port=9000)
    context = tls_pb2.DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    common = context.common_tls_context
    assert context.require_client_certificate.value
    assert [s.name for s in common.tls_certificate_sds_secret_configs] == ["default"]
    combined = common.combined_validation_context
    assert combined.validation_context_sds_secret_config.name == "ROOTCA"
    allowed = [
        m.matcher.prefix
        for m in combined.default_validation_context.match_typed_subject_alt_names
    ]
    assert allowed == ["spiffe://shop.example/", "spiffe://old.example/"]
    assert common.tls_params.tls_minimum_protocol_version == common.tls_params.TLSv1_2
    assert list(common.alpn_protocols) == ["h2", "http/1.1"]


def test_the_mesh_may_ask_for_tls_1_3() -> None:
    config = policy("STRICT") + MESH_CONFIG.format(
        "{meshMTLS: {minProtocolVersion: TLSV1_3}}"
    )
    (chain,) = chains(app((9000, "tcp")), config, port=9000)
    context = tls_pb2.DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    parameters = context.common_tls_context.tls_params
    assert parameters.tls_minimum_protocol_version == parameters.TLSv1_3


def test_a_sidecars_own_tls_gives_way_to_strict_and_stands_beside_the_meshs_otherwise() -> (
    None
):
    own = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: own}
spec:
  ingress:
  - port: {number: 9443, name: https, protocol: HTTPS}
    defaultEndpoint: 127.0.0.1:8080
    tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}
---
"""
    theirs = ("tls", "any", "http out of mTLS")
    assert taken(app(), own + policy("DISABLE"), port=9443) == [theirs]
    assert taken(app(), own, port=9443) == [
        theirs,
        ("tls", "mesh", "http out of mTLS"),
        PLAIN_HTTP,
    ]
    (strict,) = chains(app(), own + policy("STRICT"), port=9443)
    assert b"default" in strict.transport_socket.SerializeToString()


def test_a_proxy_without_a_certificate_takes_plaintext_where_it_may_and_nothing_where_it_may_not() -> (
    None
):
    nobody = replace(app((9000, "http")), has_certificate=False)
    assert taken(nobody, port=9000) == [PLAIN_HTTP]
    assert taken(nobody, policy("STRICT"), port=9000) == [MESH_HTTP]


def test_replicas_share_what_they_take_in_and_a_policy_for_one_sets_it_apart() -> None:
    translator = Translator()
    translator.update(build_mesh(catalog(), config=edge(policy("STRICT", app="db"))))
    one, two = (
        app((9000, "http")),
        replace(app((9000, "http")), id="two", address="172.28.0.10"),
    )
    other = replace(one, labels={"app": "web"})
    assert translator.snapshot(one).listeners is translator.snapshot(two).listeners
    assert translator.counters.inbound == 1
    assert (
        translator.snapshot(other).listeners is not translator.snapshot(one).listeners
    )


def test_apps_learn_their_clients_identity_and_the_edge_believes_nobody() -> None:
    def manager(chain: Any) -> Any:
        found = hcm_pb2.HttpConnectionManager()
        assert chain.filters[-1].typed_config.Unpack(found)
        return found

    for chain in chains(app((9000, "http")), port=9000):
        inside = manager(chain)
        assert inside.forward_client_cert_details == inside.APPEND_FORWARD
        assert inside.set_current_client_cert_details.uri
    config = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n"
    config += "  selector: {istio: ingressgateway}\n"
    config += (
        "  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]\n"
    )
    translator = Translator()
    translator.update(build_mesh(catalog(), config=edge(config)))
    made = messages(
        translator.snapshot(gateway({"istio": "ingressgateway"})), "listeners"
    )["0.0.0.0_80"]
    at_edge = manager(made.filter_chains[0])
    assert at_edge.forward_client_cert_details == at_edge.SANITIZE_SET
