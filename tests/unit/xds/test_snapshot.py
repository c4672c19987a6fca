"""Resources and sets: versions are content hashes, layers are invisible, diffs are shared."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2

from dockermesh.xds import (
    CLUSTER,
    EMPTY,
    ENDPOINTS,
    Resource,
    ResourceSet,
    Snapshot,
    make_resource,
)
from dockermesh.xds.responses import ResponseCache
from dockermesh.xds.snapshot import NO_DIFF, Diff, Differ


def resource(name: str, body: str = "1") -> Resource:
    return make_resource(ENDPOINTS, name, body.encode())


def test_the_version_is_a_hash_of_the_body_alone() -> None:
    assert resource("a").version == resource("b").version
    assert resource("a", "1").version != resource("a", "2").version


def test_the_version_of_a_set_ignores_order_and_layers() -> None:
    a, b, c = resource("a"), resource("b"), resource("c")
    flat = ResourceSet([a, b, c])
    assert flat.version == ResourceSet([c, b, a]).version
    assert flat.version == ResourceSet([c], base=ResourceSet([a, b])).version
    assert (
        flat.version
        == ResourceSet([b], base=ResourceSet([a, resource("b", "old"), c])).version
    )
    assert (
        flat.version
        == ResourceSet([a], base=ResourceSet([b], base=ResourceSet([c]))).version
    )
    assert flat.version != ResourceSet([a, b]).version
    assert ResourceSet().version == EMPTY.version


def test_swapping_two_bodies_changes_the_version() -> None:
    assert ResourceSet([resource("a", "1"), resource("b", "2")]).version != (
        ResourceSet([resource("a", "2"), resource("b", "1")]).version
    )


def test_the_own_layer_hides_the_base() -> None:
    base = ResourceSet([resource("a", "shared"), resource("b")])
    own = resource("a", "own")
    layered = ResourceSet([own], base=base)
    assert layered.get("a") is own
    assert sorted(layered) == ["a", "b"]
    assert len(layered) == len(list(layered.values())) == 2
    assert "b" in layered
    assert "c" not in layered


def test_a_change_of_the_base_is_diffed_once_for_all_proxies() -> None:
    old, new = ResourceSet([resource("a")]), ResourceSet([resource("a", "2")])
    differ = Differ()
    diffs = [
        differ(
            ResourceSet([resource("mine", str(i))], base=old),
            ResourceSet([resource("mine", str(i))], base=new),
        )
        for i in range(3)
    ]
    assert diffs[0] == Diff(changed=("a",))
    assert all(d is diffs[0] for d in diffs)


def test_equal_content_has_no_diff() -> None:
    assert (
        Differ()(ResourceSet([resource("a")]), ResourceSet([resource("a")])) is NO_DIFF
    )


def test_a_hidden_change_is_no_change() -> None:
    own = resource("a", "own")
    old = ResourceSet([own], base=ResourceSet([resource("a", "1")]))
    new = ResourceSet([own], base=ResourceSet([resource("a", "2")]))
    assert Differ()(old, new) == NO_DIFF


def test_dropping_an_override_shows_the_base_again() -> None:
    base = ResourceSet([resource("a", "base")])
    assert Differ()(
        ResourceSet([resource("a", "own"), resource("b")], base=base), base
    ) == Diff(("a",), ("b",))


def test_cluster_knows_where_its_endpoints_come_from() -> None:
    eds = cluster_pb2.Cluster(name="c", type=cluster_pb2.Cluster.EDS)
    assert make_resource(CLUSTER, "c", eds.SerializeToString()).eds_name == "c"
    eds.eds_cluster_config.service_name = "s"
    assert make_resource(CLUSTER, "c", eds.SerializeToString()).eds_name == "s"
    static = cluster_pb2.Cluster(name="c", type=cluster_pb2.Cluster.STATIC)
    assert make_resource(CLUSTER, "c", static.SerializeToString()).eds_name == ""


def test_a_cluster_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a serialised Cluster"):
        make_resource(CLUSTER, "c", b"\xff\xff")


def test_unknown_types_are_empty() -> None:
    assert Snapshot().of("type.googleapis.com/unknown") is EMPTY


def test_assembled_bytes_are_the_messages_that_protobuf_reads() -> None:
    cache = ResponseCache()
    parts = (resource("a", "x" * 300), resource("b", ""))
    delta = discovery_pb2.DeltaDiscoveryResponse.FromString(
        cache.make_delta(ENDPOINTS, parts, ("gone",)).data
    )
    assert [(r.name, r.version, r.resource.value) for r in delta.resources] == [
        ("a", parts[0].version, b"x" * 300),
        ("b", parts[1].version, b""),
    ]
    assert (delta.type_url, delta.nonce, list(delta.removed_resources)) == (
        ENDPOINTS,
        "1",
        ["gone"],
    )
    sotw = discovery_pb2.DiscoveryResponse.FromString(
        cache.make_sotw(ENDPOINTS, parts, "v").data
    )
    assert [(a.type_url, a.value) for a in sotw.resources] == [
        (ENDPOINTS, b"x" * 300),
        (ENDPOINTS, b""),
    ]
    assert (sotw.type_url, sotw.nonce, sotw.version_info) == (ENDPOINTS, "2", "v")


def test_streams_in_the_same_situation_share_the_response() -> None:
    cache = ResponseCache()
    old, new = ResourceSet([resource("a")]), ResourceSet([resource("a", "2")])
    one = cache.delta(ENDPOINTS, old, new, frozenset({"a", "b"}), frozenset())
    assert one is not None
    assert cache.delta(ENDPOINTS, old, new, frozenset({"a", "c"}), frozenset()) is one
    assert cache.delta(ENDPOINTS, old, new, frozenset({"c"}), frozenset()) is None
