"""Gateways: servers that share a port, TLS, and which VirtualServices are bound to which server."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from meshes import (
    as_dict,
    catalog,
    edge,
    gateway,
    mesh,
    messages,
    service,
    sidecar,
    workload,
)

from dockermesh.config.documents import read_text
from dockermesh.model import WorkloadKind
from dockermesh.model.protocol import Protocol
from dockermesh.translate.mesh.findings import Reason
from dockermesh.translate.mesh.settings import istio_config
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.tls.secrets import file_secrets
from dockermesh.translate.translator import Translator

EDGE = gateway({"istio": "ingressgateway"})
HTTP = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [%s]}"


def gateway_yaml(*servers: str, name: str = "gw") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{", ".join(servers)}]}}
"""


def bound(hosts: str, rules: str, *, name: str = "vs", gateways: str = "[gw]") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec: {{hosts: {hosts}, gateways: {gateways}, {rules}}}
"""


TO_WEB = "http: [{route: [{destination: {host: web}}]}]"


def told(*config: str) -> dict[str, dict[str, Any]]:
    translator = Translator()
    translator.update(
        mesh(
            service("web", "10.0.0.1"),
            service("db", "10.0.0.2"),
            config="---".join(config),
        )
    )
    made = as_dict(translator.snapshot(EDGE))
    return {
        kind: {item["name"]: item for item in made[kind]}
        for kind in ("listeners", "routes")
    }


def test_a_rule_serves_the_hosts_that_it_and_the_server_have_in_common() -> None:
    found = told(
        gateway_yaml(HTTP % '"*.x.com"'),
        bound("[a.x.com, a.y.com]", TO_WEB),
        bound("['*']", TO_WEB, name="any"),
    )
    assert [h["domains"] for h in found["routes"]["http.80"]["virtualHosts"]] == [
        ["*.x.com"],
        ["a.x.com"],
    ]


def test_without_a_rule_the_port_is_open_and_answers_404() -> None:
    found = told(gateway_yaml(HTTP % '"*"'))
    assert list(found["listeners"]) == ["0.0.0.0_80"]
    assert "virtualHosts" not in found["routes"]["http.80"]


def test_rules_of_one_host_follow_each_other_and_catch_alls_go_last() -> None:
    first = bound("[a.com]", TO_WEB, name="a")
    second = bound(
        "[a.com]",
        "http: [{match: [{uri: {prefix: /db}}], route: [{destination: {host: db}}]}]",
        name="b",
    )
    [host] = told(gateway_yaml(HTTP % '"*"'), first, second)["routes"]["http.80"][
        "virtualHosts"
    ]
    assert [r["match"]["prefix"] for r in host["routes"]] == ["/db", "/"]


def test_what_was_generated_yields_where_the_user_says_what_a_host_serves() -> None:
    marked = "metadata: {labels: {dockermesh.io/generated: 'true'}, "
    made = [
        text.replace("metadata: {", marked)
        for text in (
            gateway_yaml(HTTP % '"*"'),
            bound("['*']", "http: [{route: [{destination: {host: db}}]}]"),
        )
    ]
    own = gateway_yaml(HTTP % '"*"', name="own")
    rule = TO_WEB.replace("[{route", "[{match: [{uri: {prefix: /web}}], route")

    def prefixes(*config: str) -> dict[str, list[str]]:
        hosts = told(*made, *config)["routes"]["http.80"]["virtualHosts"]
        return {
            host["domains"][0]: [r["match"]["prefix"] for r in host["routes"]]
            for host in hosts
        }

    assert prefixes() == prefixes(own) == {"*": ["/"]}
    assert prefixes(own, bound("[a.com]", rule, name="a", gateways="[own]")) == {
        "*": ["/"],
        "a.com": ["/web"],
    }
    assert prefixes(own, bound("['*']", rule, name="a", gateways="[own]")) == {
        "*": ["/web"]
    }
    assert prefixes(bound("['*']", rule, name="z")) == {"*": ["/web"]}


def test_https_redirect_asks_for_tls_on_plain_servers() -> None:
    server = (
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com], tls: {httpsRedirect:"
        " true}}"
    )
    [host] = told(gateway_yaml(server))["routes"]["http.80"]["virtualHosts"]
    assert (host["domains"], host["requireTls"]) == (["a.com"], "ALL")


def test_a_server_name_belongs_to_one_server_for_envoy_refuses_it_twice() -> None:
    servers = [
        f"{{port: {{number: 443, name: s{n}, protocol: HTTPS}}, hosts: {hosts},"
        f" tls: {{mode: SIMPLE, credentialName: c{n}}}}}"
        for n, hosts in enumerate(("[a.com, b.com]", "[B.com, c.com]"))
    ]
    listener = told(gateway_yaml(*servers))["listeners"]["0.0.0.0_443"]
    assert [c["filterChainMatch"]["serverNames"] for c in listener["filterChains"]] == [
        ["a.com", "b.com"],
        ["c.com"],
    ]


def test_passthrough_goes_by_server_name_to_the_tls_rule() -> None:
    server = "{port: {number: 443, name: tls, protocol: TLS}, hosts: [d.com], tls: {mode: PASSTHROUGH}}"
    rules = "tls: [{match: [{sniHosts: [d.com]}], route: [{destination: {host: db}}]}]"
    [chain] = told(gateway_yaml(server), bound("[d.com]", rules))["listeners"][
        "0.0.0.0_443"
    ]["filterChains"]
    assert chain["filterChainMatch"]["serverNames"] == ["d.com"]
    assert "transportSocket" not in chain
    assert (
        chain["filters"][0]["typedConfig"]["cluster"]
        == "outbound|9080||db.service.consul"
    )


def test_mutual_tls_refers_to_secrets_that_name_files() -> None:
    server = (
        "{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.com], tls: {mode: MUTUAL,"
        " credentialName: c}}"
    )
    [chain] = told(gateway_yaml(server))["listeners"]["0.0.0.0_443"]["filterChains"]
    context = chain["transportSocket"]["typedConfig"]
    assert context["requireClientCertificate"] is True
    names = ["kubernetes://c", "kubernetes://c-cacert"]
    assert [
        s["name"] for s in context["commonTlsContext"]["tlsCertificateSdsSecretConfigs"]
    ] == names[:1]
    pair, roots = file_secrets(names)
    assert (
        pair.tls_certificate.private_key.filename
        == "/etc/dockermesh/credentials/c/tls.key"
    )
    assert (
        roots.validation_context.trusted_ca.filename
        == "/etc/dockermesh/credentials/c/ca.crt"
    )


def test_a_credential_never_leads_out_of_its_folder() -> None:
    assert file_secrets(["kubernetes://.."]) == []
    [secret] = file_secrets(["kubernetes://../../etc/shadow"])
    assert (
        secret.tls_certificate.private_key.filename
        == "/etc/dockermesh/credentials/shadow/tls.key"
    )


def test_of_two_tcp_servers_on_a_port_the_first_counts_whatever_the_order_of_files() -> (
    None
):
    server = "{port: {number: 3306, name: tcp, protocol: TCP}, hosts: ['*']}"
    texts = [
        gateway_yaml(server, name="a"),
        gateway_yaml(server, name="b"),
        *(
            bound(
                "['*']",
                f"tcp: [{{route: [{{destination: {{host: {to}}}}}]}}]",
                name=f"vs-{to}",
                gateways=f"[{gw}]",
            )
            for gw, to in (("a", "web"), ("b", "db"))
        ),
    ]
    seen = set()
    for seed in range(50):
        Random(seed).shuffle(texts)
        resources = [r for text in texts for r in read_text(text).resources]
        translator = Translator()
        translator.update(
            build_mesh(
                catalog([service("web", "10.0.0.1"), service("db", "10.0.0.2")]),
                config=istio_config(resources),
            )
        )
        snapshot = translator.snapshot(EDGE)
        seen.add(snapshot.listeners.version)
        assert "outbound|9080||web.service.consul" in str(
            messages(snapshot, "listeners")["0.0.0.0_3306"]
        )
    assert len(seen) == 1


def test_a_server_that_passes_mesh_tls_on_finds_services_and_subsets_by_server_name() -> (
    None
):
    config = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east-west}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: ["*.service.consul"], tls: {mode: AUTO_PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {tls: {mode: SIMPLE}}, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec: {hosts: [out.example], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
"""
    translator = Translator()
    translator.update(mesh(service("reviews", "10.0.0.2"), config=config))
    snapshot = translator.snapshot(gateway({"istio": "ingressgateway"}))
    chains = messages(snapshot, "listeners")["0.0.0.0_15443"].filter_chains
    names = [
        "outbound_.9080_._.reviews.service.consul",
        "outbound_.9080_.v1_.reviews.service.consul",
    ]
    assert [list(chain.filter_chain_match.server_names) for chain in chains] == [
        [name] for name in names
    ]
    assert all(
        "istio" in chain.filter_chain_match.application_protocols for chain in chains
    )
    cluster = messages(snapshot, "clusters")[names[1]]
    assert (
        cluster.eds_cluster_config.service_name
        == "outbound|9080|v1|reviews.service.consul"
    )
    assert cluster.eds_cluster_config.service_name in snapshot.endpoints
    assert not cluster.HasField("transport_socket")
    translator.update(mesh(service("reviews", "10.0.0.2"), config=config))
    plain = translator.snapshot(sidecar("front-1", 80))
    assert names[0] not in plain.clusters


def test_the_gateways_own_service_tells_where_it_listens() -> None:
    entry = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: edge}
spec:
  hosts: [edge.com]
  ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.7}]
"""
    config = [
        gateway_yaml(
            HTTP % "a.com", HTTP.replace("80, name: http", "82, name: more") % "b.com"
        ),
        bound("[a.com]", TO_WEB),
        entry,
    ]
    translator = Translator()
    translator.update(mesh(service("web", "10.0.0.1"), config="---".join(config)))
    made = as_dict(translator.snapshot(replace(EDGE, address="10.0.0.7")))
    assert sorted(item["name"] for item in made["listeners"]) == [
        "0.0.0.0_8080",
        "0.0.0.0_82",
    ]
    tables = {table["name"]: table for table in made["routes"]}
    assert [host["name"] for host in tables["http.8080"]["virtualHosts"]] == [
        "a.com:80"
    ]  # as clients and rules say it
    for other in (
        replace(EDGE, address="10.0.0.8"),
        replace(EDGE, address="10.0.0.7", namespace="other"),
    ):
        listeners = as_dict(translator.snapshot(other))["listeners"]
        assert sorted(item["name"] for item in listeners) == [
            "0.0.0.0_80",
            "0.0.0.0_82",
        ]


def test_a_port_that_no_host_publishes_is_told_of() -> None:
    def findings(*published: int, **more: Any) -> list[str]:
        own = replace(
            workload("shop/gateway-1", kind=WorkloadKind.GATEWAY),
            published=published,
        )
        own = replace(own, **{"labels": {"istio": "ingressgateway"}} | more)
        servers = (
            HTTP % '"*"',
            (HTTP % '"*"').replace("80", "81").replace("http", "b"),
        )
        translator = Translator()
        translator.update(
            build_mesh(catalog([], [own]), config=edge(gateway_yaml(*servers)))
        )
        told = translator.findings("Gateway default/gw")
        assert {finding.reason for finding in told} <= {Reason.PORT_UNAVAILABLE}
        return [finding.message.partition(":")[0] for finding in told]

    assert findings(80) == ["spec.servers[1].port"]
    assert findings(80, 81) == []
    # One without any port of the host is called from inside the mesh.
    assert findings() == []
    assert findings(80, kind=WorkloadKind.SIDECAR) == []
    assert findings(80, labels={"istio": "other"}) == []


def test_behind_a_server_that_ends_tls_an_undeclared_port_gets_http1() -> None:
    tls = "{port: {number: 443, name: tls, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c}}"
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

    def spoken(server: str, protocol: Protocol) -> set[str]:
        web = service("web", "10.0.0.1", protocol=protocol)
        config = f"{gateway_yaml(server)}---{bound('[a.com]', TO_WEB)}"
        translator = Translator()
        translator.update(mesh(web, config=config))
        clusters = as_dict(translator.snapshot(EDGE))["clusters"]
        [cluster] = [c for c in clusters if c["name"].endswith("|web.service.consul")]
        return set(cluster["typedExtensionProtocolOptions"][options])

    assert "explicitHttpConfig" in spoken(tls, Protocol.AUTO)
    assert "useDownstreamProtocolConfig" in spoken(HTTP % "a.com", Protocol.AUTO)
    assert "explicitHttpConfig" in spoken(tls, Protocol.GRPC)


def test_a_gateway_has_its_own_topology_before_the_mesh_s() -> None:
    mesh_config = """
kind: MeshConfig
spec: {defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}}
"""

    def managers(label: str) -> set[tuple[int, str]]:
        translator = Translator()
        config = gateway_yaml(HTTP % "'*'") + "---" + mesh_config
        translator.update(mesh(service("web", "10.0.0.1"), config=config))
        labels = {"istio": "ingressgateway", "proxy.istio.io/config": label}
        snapshot = translator.snapshot(gateway(labels))
        return {
            (manager.get("xffNumTrustedHops", 0), manager["forwardClientCertDetails"])
            for listener in as_dict(snapshot)["listeners"]
            for chain in listener.get("filterChains", ())
            for manager in (f["typedConfig"] for f in chain["filters"])
            if "forwardClientCertDetails" in manager
        }

    usual = {(1, "SANITIZE_SET")}
    assert managers("") == usual
    assert managers("gatewayTopology: {numTrustedProxies: 2}") == {(2, "SANITIZE_SET")}
    own = "gatewayTopology: {forwardClientCertDetails: FORWARD_ONLY}"
    assert managers(own) == {(0, "FORWARD_ONLY")}
    for unreadable in ("[", "gatewayTopology: {numTrustedProxies: many}", "a"):
        assert managers(unreadable) == usual
