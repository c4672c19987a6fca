"""What a node's proxy is told: the parts of its workloads, put together without one hiding
another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from google.protobuf import any_pb2
from meshes import catalog, edge, service, workload

from dockermesh.model import Port, Protocol, ProxyMode, Workload, WorkloadKind
from dockermesh.translate.envoy.client_state import (
    FILTER,
    is_told_apart,
    state_filter,
)
from dockermesh.translate.envoy.newer_protos import SetStateOnAccept
from dockermesh.translate.mesh.known_proxies import proxy_of
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.node.outbound import shared_outbound
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot

NODE = Workload(id="n", name="mesh/node-1", kind=WorkloadKind.NODE, host="here")


def at_node(name: str, *ports: int, **more: Any) -> Workload:
    fields = {"host": "here", "network_namespace": f"/run/netns/{name}", **more}
    return workload(name, *ports, mode=ProxyMode.NODE, **fields)


def translated(*workloads: Workload, config: str = "") -> tuple[Translator, Snapshot]:
    services = [
        service("reviews", "10.0.0.1"),
        service("db", "10.0.0.3", ports=(Port(5432, Protocol.TCP),), port=5432),
        service("any", "10.0.0.4", ports=(Port(7000, Protocol.AUTO),), port=7000),
    ]
    made = Translator()
    made.update(
        build_mesh(
            catalog(services, [NODE, *workloads]),
            config=edge(config) if config else IstioConfig(),
        )
    )
    return made, made.snapshot(proxy_of(NODE, {}))


def listener(snapshot: Snapshot, name: str) -> Any:
    resource = snapshot.listeners.get(name)
    assert resource is not None, list(snapshot.listeners)
    made = listener_pb2.Listener()
    any_pb2.Any.FromString(resource.any_bytes).Unpack(made)
    return made


def test_a_workload_has_two_listeners_in_its_namespace_and_shares_all_else() -> None:
    _, alone = translated(at_node("a-1", 9080))
    _, both = translated(at_node("a-1", 9080), at_node("a-2", 9080))
    assert sorted(both.listeners) == [
        "dns|shop/a-1",
        "dns|shop/a-2",
        "virtualInbound|shop/a-1",
        "virtualInbound|shop/a-2",
        "virtualOutbound|shop/a-1",
        "virtualOutbound|shop/a-2",
    ]
    for name in ("a-1", "a-2"):
        for side in ("dns", "virtualInbound", "virtualOutbound"):
            address = listener(both, f"{side}|shop/{name}").address.socket_address
            assert address.network_namespace_filepath == f"/run/netns/{name}"
    assert set(alone.clusters) == set(both.clusters)
    assert alone.routes.version == both.routes.version


def test_those_of_other_hosts_with_sidecars_or_without_a_namespace_are_not_served() -> (
    None
):
    _, found = translated(
        at_node("far-1", 9080, host="there"),
        at_node("starting-1", 9080, network_namespace=""),
        at_node("odd-1", 9080, network_namespace="/run/%CONNECTION_ID%"),
        replace(at_node("own-1", 9080), mode=ProxyMode.SIDECAR),
    )
    assert not list(found.listeners)


def test_nothing_new_gives_the_same_object() -> None:
    made, first = translated(at_node("a-1", 9080))
    assert made.snapshot(proxy_of(NODE, {})) is first


def test_where_two_views_differ_in_one_name_the_later_workload_is_left_out() -> None:
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: own, namespace: second}
spec:
  host: reviews
  exportTo: ["."]
  trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}
"""
    made, found = translated(
        at_node("a-1", 9080), at_node("b-1", 9080, namespace="second"), config=rule
    )
    assert "virtualOutbound|shop/a-1" in found.listeners
    assert "virtualOutbound|shop/b-1" not in found.listeners
    assert "another workload there has another" in made.problems()["shop/b-1"]


# the chain that a connection gets
# --------------------------------------------------------------------------------------------------


def test_a_connection_gets_the_chain_that_a_sidecars_listeners_give_it() -> None:
    made, _ = translated(at_node("a-1", 9080))
    [own] = [w for w in made.mesh.workloads.values() if w.name == "shop/a-1"]
    snapshot = made.snapshot(proxy_of(own, {}))
    of_sidecar = [
        listener(snapshot, name)
        for name in snapshot.listeners
        if name != "virtualInbound"
    ]
    merged = shared_outbound(of_sidecar)
    vips = made.mesh.vips
    addresses = [vips[f"{n}.service.consul"] for n in ("reviews", "db", "any")]
    checked = 0
    for address in (*addresses, "198.51.100.7"):
        for port in (9080, 5432, 7000, 15001, 1234):
            for transport in ("raw_buffer", "tls"):
                for protocol in ("", "http/1.1", "istio"):
                    where = (address, port, transport, protocol)
                    expected = _by_listeners(of_sidecar, *where)
                    if expected.name == "virtualOutbound-catchall-tcp" and (
                        address in addresses and port not in (9080, 15001)
                    ):
                        expected = None
                    found = _search(merged, *where)
                    if expected is None:
                        assert found.name == "virtualOutbound-undeclared", where
                    else:
                        assert found.filters == expected.filters, where
                    checked += 1
    assert checked == 120


def _by_listeners(
    listeners: list[Any], address: str, port: int, transport: str, protocol: str
) -> Any:
    """As a sidecar does: the listener of address and port, of the port, or the virtual one."""
    by_name = {item.name: item for item in listeners}
    chosen = (
        by_name.get(f"{address}_{port}")
        or by_name.get(f"0.0.0.0_{port}")
        or by_name["virtualOutbound"]
    )
    return _search(chosen, address, port, transport, protocol)


def _search(chosen: Any, address: str, port: int, transport: str, protocol: str) -> Any:
    """Envoy's search for a chain (its documentation of FilterChainMatch): criterion by criterion,
    the most specific value that a chain has, and never back.
    """
    left = list(chosen.filter_chains)
    steps = (
        lambda m: [m.destination_port.value] if m.HasField("destination_port") else [],
        lambda m: [_length(m, address)] if m.prefix_ranges else [],
        lambda m: list(m.server_names),
        lambda m: [m.transport_protocol] if m.transport_protocol else [],
        lambda m: list(m.application_protocols),
    )
    wanted = (port, None, None, transport, protocol)
    for step, (values_of, value) in enumerate(zip(steps, wanted, strict=True)):
        if step == 1:
            lengths = {
                n for c in left for n in values_of(c.filter_chain_match) if n >= 0
            }
            best = max(lengths, default=None)
            exact = [
                c
                for c in left
                if best is not None and best in values_of(c.filter_chain_match)
            ]
        else:
            exact = [c for c in left if value in values_of(c.filter_chain_match)]
        left = exact or [c for c in left if not values_of(c.filter_chain_match)]
    return left[0] if left else chosen.default_filter_chain


def _length(match: Any, address: str) -> int:
    [prefix] = match.prefix_ranges
    length = prefix.prefix_len.value
    kept = (length + 7) // 8
    is_in = address.split(".")[:kept] == prefix.address_prefix.split(".")[:kept]
    return int(length) if is_in else -1


# who a connection is of
# --------------------------------------------------------------------------------------------------


def _states(snapshot: Snapshot) -> Iterator[Any]:
    for name in snapshot.listeners:
        for part in listener(snapshot, name).listener_filters:
            if part.name == FILTER:
                yield from SetStateOnAccept.FromString(
                    part.typed_config.value
                ).on_accept


def test_whatever_goes_to_the_other_side_keeps_connections_apart() -> None:
    _, found = translated(at_node("a-1", 9080))
    states = list(_states(found))
    assert len(states) == 3
    assert {state.factory_key for state in states} == {"envoy.hashable_string"}
    assert "c/spiffe://cluster.local/ns/default/sa/a" in {
        state.format_string.text_format_source.inline_string for state in states
    }


def test_the_guard_refuses_what_envoy_would_not_keep_apart() -> None:
    made = listener_pb2.Listener(listener_filters=[state_filter("/run/netns/a", "c/x")])
    assert is_told_apart(made)
    state = SetStateOnAccept.FromString(made.listener_filters[0].typed_config.value)
    state.on_accept[1].factory_key = "envoy.string"
    made.listener_filters[0].typed_config.value = state.SerializeToString()
    assert not is_told_apart(made)


def test_what_looks_like_a_command_of_the_format_is_text() -> None:
    part: listener_components_pb2.ListenerFilter = state_filter("/a/%b%")
    [state] = SetStateOnAccept.FromString(part.typed_config.value).on_accept
    assert state.format_string.text_format_source.inline_string == "/a/%%b%%"
