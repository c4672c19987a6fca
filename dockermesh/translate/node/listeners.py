"""The listeners that a workload has at the proxy of its node, in its own network namespace.

What all of them share comes as bytes: a workload costs its name, its address and who it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2

from dockermesh.model import INBOUND_PORT, OUTBOUND_PORT
from dockermesh.model.contract import PROXY_UID
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.client_state import is_told_apart, state_filter
from dockermesh.translate.envoy.isolation import Unsound
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.tls.secrets import client_certificate
from dockermesh.xds.protobuf import serialised
from dockermesh.xds.resources import LISTENER, Resource, make_resource

_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True)
class Place:
    """Whose listeners they are, and where: the path of the network namespace as the proxy sees
    it.
    """

    workload: str
    identity: str
    namespace: str

    @property
    def is_known(self) -> bool:
        """Whether the namespace is: a record may come before it."""
        return _PATH.fullmatch(self.namespace) is not None


def outbound_listener(place: Place, shared: bytes) -> Resource:
    """Where the app's own connections arrive; `shared` is a serialised `shared_outbound`."""
    head = listener_pb2.Listener(
        name=f"{names.VIRTUAL_OUTBOUND}|{place.workload}",
        # Only the app's own processes are redirected to it.
        address=_address("127.0.0.1", OUTBOUND_PORT, place),
        traffic_direction="OUTBOUND",
        listener_filters=[
            state_filter(place.namespace, client_certificate(place.identity))
        ],
    )
    _guard(head)
    # Serialised messages after each other are one message: what is repeated is appended.
    return make_resource(LISTENER, head.name, serialised(head) + shared)


def inbound_listener(place: Place, sidecars: listener_pb2.Listener) -> Resource:
    """Where connections to the app arrive: as at a sidecar, but on to the app they go as if they
    came from the client itself.
    """
    made = listener_pb2.Listener()
    made.CopyFrom(sidecars)
    made.name = f"{names.VIRTUAL_INBOUND}|{place.workload}"
    made.address.CopyFrom(_address("0.0.0.0", INBOUND_PORT, place))
    made.listener_filters.insert(0, state_filter(place.namespace))
    made.listener_filters.append(_AS_CLIENT)
    _guard(made)
    return make_resource(LISTENER, made.name, serialised(made))


def names_listener(place: Place, sidecars: listener_pb2.Listener) -> Resource:
    """The table of the mesh's names, which the name server in the namespace asks."""
    made = listener_pb2.Listener()
    made.CopyFrom(sidecars)
    made.name = f"{names.DNS_LISTENER}|{place.workload}"
    made.address.socket_address.network_namespace_filepath = place.namespace
    return make_resource(LISTENER, made.name, serialised(made))


# The mark leads the app's answers, which are for the client's address, back to the proxy.
_AS_CLIENT = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.original_src",
    typed_config=pack(original_src_pb2.OriginalSrc(mark=PROXY_UID)),
)


def _address(address: str, port: int, place: Place) -> address_pb2.Address:
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(
            address=address,
            port_value=port,
            network_namespace_filepath=place.namespace,
        )
    )


def _guard(listener: listener_pb2.Listener) -> None:
    if not is_told_apart(listener):
        raise Unsound(f"{listener.name}: connections of others would be used for it")
