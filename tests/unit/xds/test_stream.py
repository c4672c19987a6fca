"""Order between types, resuming and refusals, message by message."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2

from dockermesh.xds import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    Metrics,
    Resource,
    ResourceSet,
    Snapshot,
    make_resource,
)
from dockermesh.xds.request import Decoder
from dockermesh.xds.responses import Response, ResponseCache
from dockermesh.xds.stream import GATE_SECONDS, StreamState


def cluster(name: str, body: str = "1") -> Resource:
    message = cluster_pb2.Cluster(
        name=name, type=cluster_pb2.Cluster.EDS, alt_stat_name=body
    )
    return make_resource(CLUSTER, name, message.SerializeToString())


def plain(type_url: str, *names: str, body: str = "1") -> ResourceSet:
    return ResourceSet(
        make_resource(type_url, n, f"{n}={body}".encode()) for n in names
    )


def mesh(
    *names: str, body: str = "1", endpoints: str = "1", routes: str = "1"
) -> Snapshot:
    return Snapshot(
        ResourceSet(cluster(n, body) for n in names),
        plain(ENDPOINTS, *names, body=endpoints),
        plain(LISTENER, "l", body="1"),
        plain(ROUTES, "r", body=routes),
    )


class Peer:
    """A proxy that subscribed to everything, and answers only when told."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        delta: bool,
        names: tuple[str, ...] = ("a", "b", "c"),
    ) -> None:
        self.delta, self.now = delta, 0.0
        self.names = {CLUSTER: (), ENDPOINTS: names, LISTENER: (), ROUTES: ("r",)}
        self.metrics = Metrics()
        self.state = StreamState(
            delta=delta, cache=ResponseCache(), decode=Decoder(), metrics=self.metrics
        )
        self.state.publish(snapshot)
        for type_url in self.names:
            self.request(type_url, first=True)
            while (response := self.next()) is not None:
                self.answer(response)

    def request(
        self,
        type_url: str,
        *,
        first: bool = False,
        nonce: str = "",
        version: str = "",
        error: str = "",
    ) -> None:
        message: Any
        if self.delta:
            message = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, response_nonce=nonce
            )
            if first:
                message.resource_names_subscribe.extend(self.names[type_url])
        else:
            message = discovery_pb2.DiscoveryRequest(
                type_url=type_url, response_nonce=nonce, version_info=version
            )
            message.resource_names.extend(self.names[type_url])
        if error:
            message.error_detail.message = error
        self.state.receive(message.SerializeToString(), self.now)

    def next(self) -> Response | None:
        return self.state.next(self.now)

    def answer(self, response: Response, error: str = "") -> None:
        kind: Any = (
            discovery_pb2.DeltaDiscoveryResponse
            if self.delta
            else discovery_pb2.DiscoveryResponse
        )
        type_url = kind.FromString(response.data).type_url
        self.request(
            type_url, nonce=response.nonce, version=response.version, error=error
        )

    def type_of(self, response: Response | None) -> str:
        assert response is not None
        kind: Any = (
            discovery_pb2.DeltaDiscoveryResponse
            if self.delta
            else discovery_pb2.DiscoveryResponse
        )
        return str(kind.FromString(response.data).type_url)

    def settle(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        seen = []
        while (response := self.next()) is not None:
            seen.append(
                (
                    self.type_of(response).rsplit(".", 1)[1],
                    response.names,
                    response.removed,
                )
            )
            self.answer(response)
        return seen


@pytest.fixture(params=[True, False], ids=["delta", "sotw"])
def delta(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_an_endpoint_change_touches_endpoints_only(delta: bool) -> None:
    peer = Peer(mesh("a", "b"), delta=delta)
    peer.state.publish(mesh("a", "b", endpoints="2"))
    assert [s[0] for s in peer.settle()] == ["ClusterLoadAssignment"]


def test_a_route_change_touches_routes_only(delta: bool) -> None:
    peer = Peer(mesh("a", "b"), delta=delta)
    peer.state.publish(mesh("a", "b", routes="2"))
    assert [s[0] for s in peer.settle()] == ["RouteConfiguration"]


def test_a_changed_cluster_gets_its_endpoints_again(delta: bool) -> None:
    first = mesh("a", "b")
    peer = Peer(first, delta=delta)
    changed = ResourceSet([cluster("a", "2")], base=first.clusters)
    peer.state.publish(
        Snapshot(changed, first.endpoints, first.listeners, first.routes)
    )
    assert [(kind, names) for kind, names, _ in peer.settle()][1:] == [
        ("ClusterLoadAssignment", ("a",))
    ]


def test_make_before_break(delta: bool) -> None:
    """New cluster and endpoints, then the route, and only then the old cluster goes."""
    peer = Peer(mesh("a", "b"), delta=delta)
    peer.state.publish(mesh("b", "c", routes="2"))
    seen = peer.settle()
    kinds = [kind for kind, _, _ in seen]
    if delta:
        assert kinds == [
            "Cluster",
            "ClusterLoadAssignment",
            "RouteConfiguration",
            "Cluster",
            "ClusterLoadAssignment",
        ]
        assert [removed for _, _, removed in seen] == [(), (), (), ("a",), ("a",)]
    else:
        assert kinds == [
            "Cluster",
            "ClusterLoadAssignment",
            "RouteConfiguration",
            "Cluster",
        ]
        assert sorted(seen[0][1]) == ["a", "b", "c"]
        assert sorted(seen[3][1]) == ["b", "c"]


def test_a_filter_stays_for_as_long_as_a_listener_may_have_it() -> None:
    """A client that is subscribed to it has a listener that names it, be it one that drains."""

    def tell(**names: list[str]) -> None:
        message = discovery_pb2.DeltaDiscoveryRequest(type_url=EXTENSION, **names)
        peer.state.receive(message.SerializeToString(), 0.0)

    first, filters = mesh("a"), plain(EXTENSION, "x", "y")
    peer = Peer(first.with_extensions(filters), delta=True)
    tell(resource_names_subscribe=["x", "y"])
    assert peer.settle() == [("TypedExtensionConfig", ("x", "y"), ())]

    listeners = plain(LISTENER, "l", body="2")
    without = first.with_own(first.clusters, listeners)
    peer.state.publish(without.with_extensions(plain(EXTENSION, "y", body="2")))
    assert peer.settle() == [
        ("TypedExtensionConfig", ("y",), ()),
        ("Listener", ("l",), ()),
    ]
    tell(resource_names_unsubscribe=["x"])
    assert peer.settle() == []
    # Who asks for it again is told that it is gone.
    tell(resource_names_subscribe=["x"])
    assert peer.settle() == [("TypedExtensionConfig", (), ("x",))]


def test_routes_wait_for_clusters_but_not_for_ever(delta: bool) -> None:
    peer = Peer(mesh("a"), delta=delta)
    peer.state.publish(mesh("a", "b", routes="2"))
    assert peer.type_of(peer.next()) == CLUSTER
    endpoints = peer.next()
    assert peer.type_of(endpoints) == ENDPOINTS
    assert endpoints is not None
    peer.answer(endpoints)
    assert peer.next() is None, "the clusters are not accepted yet"
    peer.now += GATE_SECONDS
    assert peer.type_of(peer.next()) == ROUTES


def test_only_one_response_is_outstanding_and_the_next_is_the_newest(
    delta: bool,
) -> None:
    peer = Peer(mesh("a"), delta=delta)
    peer.state.publish(mesh("a", endpoints="2"))
    first = peer.next()
    assert first is not None
    for body in "345":
        peer.state.publish(mesh("a", endpoints=body))
        assert peer.next() is None
    peer.answer(first)
    newest = peer.next()
    assert newest is not None
    assert b"a=5" in newest.data


def test_a_refused_version_is_not_sent_again_until_it_changes(delta: bool) -> None:
    peer = Peer(mesh("a", "b"), delta=delta)
    accepted = peer.state.subscriptions[ENDPOINTS].acked_version
    peer.state.publish(mesh("a", "b", endpoints="2"))
    response = peer.next()
    assert response is not None
    peer.answer(response, error="no such address")
    assert peer.next() is None
    assert [(t, n.detail) for t, n in peer.state.nacks] == [
        (ENDPOINTS, "no such address")
    ]
    assert peer.state.subscriptions[ENDPOINTS].acked_version == accepted
    peer.state.publish(mesh("a", "b", endpoints="2"))
    assert peer.next() is None, "equal content"
    half = ResourceSet(
        [make_resource(ENDPOINTS, "a", b"a=3")],
        base=plain(ENDPOINTS, "a", "b", body="2"),
    )
    first = mesh("a", "b")
    peer.state.publish(Snapshot(first.clusters, half, first.listeners, first.routes))
    assert sorted(peer.settle()[0][1]) == ["a", "b"], (
        "nothing of the refused response may have been applied"
    )
    assert peer.state.subscriptions[ENDPOINTS].nack is None


def resumed_at(type_url: str, version: str, *names: str) -> Response | None:
    again = StreamState(
        delta=False, cache=ResponseCache(), decode=Decoder(), metrics=Metrics()
    )
    again.publish(mesh("a", "b"))
    message = discovery_pb2.DiscoveryRequest(
        type_url=type_url, version_info=version, resource_names=names
    )
    again.receive(message.SerializeToString(), 0.0)
    return again.next(0.0)


def test_sotw_resumes_by_version_what_is_subscribed_as_a_whole() -> None:
    peer = Peer(mesh("a", "b"), delta=False, names=("a",))
    version = peer.state.subscriptions[CLUSTER].acked_version
    assert resumed_at(CLUSTER, version) is None
    assert resumed_at(CLUSTER, "another") is not None


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_sotw_sends_what_is_asked_for_by_name_whatever_the_version(
    names: tuple[str, ...],
) -> None:
    # The client may have let go of it since: its version does not say what it holds.
    peer = Peer(mesh("a", "b"), delta=False, names=names)
    version = peer.state.subscriptions[ENDPOINTS].acked_version
    response = resumed_at(ENDPOINTS, version, *names)
    assert response is not None
    assert response.names == names


def test_an_empty_list_after_names_unsubscribes() -> None:
    peer = Peer(mesh("a", "b"), delta=False)
    state = StreamState(
        delta=False, cache=ResponseCache(), decode=Decoder(), metrics=Metrics()
    )
    state.publish(mesh("a", "b"))
    for names in (["a"], []):
        message = discovery_pb2.DiscoveryRequest(type_url=CLUSTER, resource_names=names)
        state.receive(message.SerializeToString(), 0.0)
        response = state.next(0.0)
        if names:
            assert response is not None
            assert response.names == ("a",)
            ack = discovery_pb2.DiscoveryRequest(
                type_url=CLUSTER, resource_names=names, response_nonce=response.nonce
            )
            state.receive(ack.SerializeToString(), 0.0)
    state.publish(mesh("a", "b", body="2"))
    assert state.next(0.0) is None
    peer.state.publish(mesh("a", "b", body="2"))
    assert peer.settle(), "an empty list from the start means everything"


def test_unsubscribing_a_name_under_a_wildcard_is_answered() -> None:
    peer = Peer(mesh("a", "b"), delta=True)
    message = discovery_pb2.DeltaDiscoveryRequest(
        type_url=CLUSTER, resource_names_unsubscribe=["a", "nobody"]
    )
    peer.state.receive(message.SerializeToString(), 0.0)
    assert peer.settle()[0] == ("Cluster", ("a",), ("nobody",))


def test_a_plain_ack_is_told_by_its_bytes(
    delta: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(mesh("a", "b"), delta=delta)
    peer.state.publish(mesh("a", "b", endpoints="2"))
    response = peer.next()
    assert response is not None

    def fail(*_args: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(StreamState, "handle", fail)
    peer.answer(response)
    assert not peer.state.awaits
