"""A port that HTTP services share: requests are routed by their host, and what is not HTTP is not
taken for it.
"""

from __future__ import annotations

from typing import Any

import pytest
from meshes import as_dict, mesh, service, sidecar

from dockermesh.translate.translator import Translator

PORT = 9080
REFUSE = "{kind: MeshConfig, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"


def entry(name: str, port: str, more: str = ", resolution: DNS") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec: {{hosts: [{name}.com], ports: [{{number: {PORT}, name: p, {port}}}]{more}}}
"""


def told(*config: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The listener of the port on any address, and the names of all route tables with their
    hosts.
    """
    translator = Translator()
    translator.update(
        mesh(service("web", "10.0.0.1", port=PORT), config="---".join(config))
    )
    made = as_dict(translator.snapshot(sidecar()))
    listener = next(
        item for item in made["listeners"] if item["name"] == f"0.0.0.0_{PORT}"
    )
    return listener, {
        t["name"]: [h["name"] for h in t["virtualHosts"]] for t in made["routes"]
    }


def cluster_of(chain: dict[str, Any]) -> str:
    return str(chain["filters"][0]["typedConfig"]["cluster"])


@pytest.mark.parametrize(
    ("config", "cluster"), [((), "PassthroughCluster"), ((REFUSE,), "BlackHoleCluster")]
)
def test_bytes_that_are_not_http_go_where_unknown_destinations_go(
    config: tuple[str, ...], cluster: str
) -> None:
    listener, _ = told(*config)
    [http] = listener["filterChains"]
    assert http["filterChainMatch"]["transportProtocol"] == "raw_buffer"
    assert {"http/1.1", "h2c"} <= set(http["filterChainMatch"]["applicationProtocols"])
    assert cluster_of(listener["defaultFilterChain"]) == cluster
    assert [f["name"].rpartition(".")[2] for f in listener["listenerFilters"]] == [
        "tls_inspector",
        "http_inspector",
    ]


def test_a_client_that_connects_early_is_waited_for_without_end() -> None:
    # It would be passed on to a virtual address otherwise, where nobody is.
    listener, _ = told()
    assert listener["listenerFiltersTimeout"] == "0s"


def test_tcp_of_a_service_with_a_virtual_address_leaves_the_port_to_others() -> None:
    listener, _ = told(entry("raw", "protocol: TCP"))
    assert cluster_of(listener["defaultFilterChain"]) == "PassthroughCluster"
    assert listener["listenerFiltersTimeout"] == "0s"


@pytest.mark.parametrize("port", ["protocol: TCP", "targetPort: 1"])
def test_a_service_with_a_virtual_address_listens_there(port: str) -> None:
    state = mesh(config=entry("raw", port))
    translator = Translator()
    translator.update(state)
    [own] = [
        item
        for item in as_dict(translator.snapshot(sidecar()))["listeners"]
        if item["name"] == f"{state.vips['raw.com']}_{PORT}"
    ]
    rest = own.get("defaultFilterChain") or own["filterChains"][-1]
    assert cluster_of(rest) == f"outbound|{PORT}||raw.com"


def test_tcp_of_a_service_without_any_address_shares_the_port_with_http() -> None:
    listener, tables = told(entry("raw", "protocol: TCP", ", resolution: NONE"))
    assert len(listener["filterChains"]) == 1
    assert cluster_of(listener["defaultFilterChain"]) == f"outbound|{PORT}||raw.com"
    assert listener["listenerFiltersTimeout"] == "5s"  # its server may speak first
    assert f"web.service.consul:{PORT}" in tables[str(PORT)]


def test_tls_of_a_service_without_address_shares_the_port_with_http() -> None:
    listener, _ = told(entry("safe", "protocol: TLS"))
    named = [
        c for c in listener["filterChains"] if "serverNames" in c["filterChainMatch"]
    ]
    assert [(c["filterChainMatch"]["serverNames"], cluster_of(c)) for c in named] == [
        (["safe.com"], f"outbound|{PORT}||safe.com")
    ]


def test_requests_to_a_sniffed_port_without_address_are_routed_by_their_host() -> None:
    _, tables = told(entry("some", "targetPort: 1"))
    assert f"some.com:{PORT}" in tables[str(PORT)]
    _, tables = told(
        entry("fixed", "targetPort: 1", ", resolution: DNS, addresses: [10.9.9.9]")
    )
    assert f"fixed.com:{PORT}" not in tables[str(PORT)]
