"""Hand-written decoding agrees with protobuf, and garbage is refused as such."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from dockermesh.xds import ENDPOINTS
from dockermesh.xds.protobuf import Malformed
from dockermesh.xds.request import Decoder, decode_delta, decode_sotw

TEXTS = st.text(max_size=200)


@given(st.lists(TEXTS, max_size=5), TEXTS, TEXTS, TEXTS, st.none() | TEXTS.filter(bool))
def test_sotw(
    names: list[str], version: str, nonce: str, type_url: str, error: str | None
) -> None:
    message = discovery_pb2.DiscoveryRequest(
        version_info=version,
        resource_names=names,
        type_url=type_url,
        response_nonce=nonce,
    )
    if error is not None:
        message.error_detail.CopyFrom(status_pb2.Status(code=3, message=error))
    request = decode_sotw(message.SerializeToString())
    assert (request.version, request.names, request.nonce) == (
        version,
        frozenset(names),
        nonce,
    )
    assert (request.type_url, request.error, request.node) == (type_url, error, None)


@given(
    st.lists(TEXTS, max_size=5),
    st.lists(TEXTS, max_size=5),
    st.dictionaries(TEXTS, TEXTS, max_size=5),
    TEXTS,
)
def test_delta(
    names: list[str], dropped: list[str], initial: dict[str, str], nonce: str
) -> None:
    message = discovery_pb2.DeltaDiscoveryRequest(
        type_url=ENDPOINTS,
        resource_names_subscribe=names,
        resource_names_unsubscribe=dropped,
        initial_resource_versions=initial,
        response_nonce=nonce,
    )
    message.node.id = "n"
    request = decode_delta(message.SerializeToString())
    assert (request.names, request.unsubscribe) == (
        frozenset(names),
        frozenset(dropped),
    )
    assert (dict(request.initial), request.nonce, request.type_url) == (
        initial,
        nonce,
        ENDPOINTS,
    )
    assert request.node == message.node.SerializeToString()


@given(st.binary(max_size=200))
def test_garbage_is_a_request_or_malformed(raw: bytes) -> None:
    for decode in (decode_sotw, decode_delta):
        try:
            decode(raw)
        except Malformed:
            continue


@pytest.mark.parametrize(
    "raw",
    [b"\xff", b"\x0a\x05ab", b"\x0b", b"\x0a\x02\xff\xff", b"\x08\x01", b"\xff" * 20],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode_sotw(raw)


def test_an_ack_repeats_the_body_of_the_subscription() -> None:
    first = discovery_pb2.DiscoveryRequest(
        resource_names=["a", "b"], type_url=ENDPOINTS
    )
    first.node.id = "n"
    ack = discovery_pb2.DiscoveryRequest(
        version_info="v",
        resource_names=["a", "b"],
        type_url=ENDPOINTS,
        response_nonce="1",
    )
    assert (
        decode_sotw(first.SerializeToString()).body
        == decode_sotw(ack.SerializeToString()).body
        != b""
    )


def test_equal_subscriptions_are_decoded_once_but_nodes_are_not_kept() -> None:
    decode = Decoder()
    message = discovery_pb2.DiscoveryRequest(resource_names=["a"], type_url=ENDPOINTS)
    raw = message.SerializeToString()
    assert decode(raw, delta=False) is decode(bytes(bytearray(raw)), delta=False)
    message.node.id = "n"
    raw = message.SerializeToString()
    assert decode(raw, delta=False) is not decode(bytes(bytearray(raw)), delta=False)
