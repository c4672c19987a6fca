"""What a node's proxy knows of the workload whose connection it carries, as filter state, and what
follows from it at the other end: from which network namespace the call goes on, with which
certificate.

Invariant: all of it is hashable. Envoy keys its connection pools by what of the filter state is,
and by nothing else: of two workloads that call the same service the second would be given a
connection that has the certificate of the first. `is_told_apart` is the guard.
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.local_address_selectors.filter_state_override.v3 import (
    config_pb2 as selector_pb2,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from dockermesh.translate.envoy.discovery import ads
from dockermesh.translate.envoy.newer_protos import (
    OnDemandSecret,
    SecretFromFilterState,
    SetStateOnAccept,
)
from dockermesh.translate.envoy.packing import pack

NAMESPACE_KEY = "envoy.network.upstream_bind_override.network_namespace"
CERTIFICATE_KEY = "envoy.tls.certificate_mappers.on_demand_secret"
HASHABLE = "envoy.hashable_string"
FILTER = "envoy.filters.listener.set_filter_state"
_NO_SECRET = "none"
"""What a call without a client would ask for: nobody has it, so that it fails."""


def state_filter(
    namespace: str, certificate: str = ""
) -> listener_components_pb2.ListenerFilter:
    """The listener filter that notes a connection's network namespace (a path), and the secret of
    the certificate for calls.
    """
    values = [_value(NAMESPACE_KEY, namespace)]
    if certificate:
        values.append(_value(CERTIFICATE_KEY, certificate))
    return listener_components_pb2.ListenerFilter(
        name=FILTER, typed_config=pack(SetStateOnAccept(on_accept=values))
    )


def is_told_apart(listener: listener_pb2.Listener) -> bool:
    """Whether Envoy keeps what it shares with upstream connections of this listener apart from that
    of others.
    """
    for part in listener.listener_filters:
        if part.name != FILTER:
            continue
        state = SetStateOnAccept.FromString(part.typed_config.value)
        if any(v.factory_key != HASHABLE for v in state.on_accept):
            return False
    return True


def lead_from_client(cluster: cluster_pb2.Cluster) -> None:
    """Have connections of the cluster leave from the namespace of the client."""
    bind = cluster.upstream_bind_config
    # Without an address of its own here Envoy ignores the rest.
    bind.source_address.CopyFrom(
        address_pb2.SocketAddress(address="0.0.0.0", port_value=0)
    )
    bind.local_address_selector.CopyFrom(
        extension_pb2.TypedExtensionConfig(
            name="envoy.upstream.local_address_selector.filter_state_override",
            typed_config=pack(selector_pb2.Config()),
        )
    )


def certify_client(common: tls_pb2.CommonTlsContext) -> None:
    """Have connections show the certificate of the client."""
    mapper = extension_pb2.TypedExtensionConfig(
        name="envoy.tls.upstream_certificate_mappers.filter_state_override",
        typed_config=pack(SecretFromFilterState(default_value=_NO_SECRET)),
    )
    selector = OnDemandSecret(config_source=ads(), certificate_mapper=mapper)
    common.custom_tls_certificate_selector.CopyFrom(
        extension_pb2.TypedExtensionConfig(
            name="envoy.tls.certificate_selectors.on_demand_secret",
            typed_config=pack(selector),
        )
    )


def _value(key: str, text: str) -> Any:
    value = value_pb2.FilterStateValue(
        object_key=key,
        factory_key=HASHABLE,
        shared_with_upstream=value_pb2.FilterStateValue.ONCE,
    )
    # It is a format, in which this sign would begin a command.
    value.format_string.text_format_source.inline_string = text.replace("%", "%%")
    return value
