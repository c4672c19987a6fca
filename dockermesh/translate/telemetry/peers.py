"""What a server's proxy knows of its peer: the facts in the client's certificate, once for each
connection.

The certificate is the mesh's own, so no app can say it is another, and nothing is sent beside the
request that an app could forge or see. Connections without such a certificate have no peer.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from envoy.config.core.v3 import extension_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from dockermesh.model.canonical import SEPARATOR, UNKNOWN, Facts
from dockermesh.translate.envoy.newer_protos import Cel, SetFilterState
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.envoy.workload_metadata import METADATA
from dockermesh.translate.telemetry.metric_labels import peer_key
from dockermesh.translate.tls.secrets import WORKLOAD_CERTIFICATE

_ALL = f"{METADATA}.peer"
_SPLIT = f"string(filter_state['{_ALL}']).split('{SEPARATOR}')"


def is_mutual(chain: Any) -> bool:
    """Whether a filter chain takes only who has a certificate of the mesh."""
    socket = chain.transport_socket.typed_config
    if not socket.Is(tls_pb2.DownstreamTlsContext.DESCRIPTOR):
        return False
    context = tls_pb2.DownstreamTlsContext()
    socket.Unpack(context)
    own = context.common_tls_context.tls_certificate_sds_secret_configs
    return context.require_client_certificate.value and any(
        secret.name == WORKLOAD_CERTIFICATE for secret in own
    )


@cache
def peer_filter() -> Any:
    """The filter that notes the peer when the handshake is done."""
    facts = [field.name for field in fields(Facts)]
    values = [_value(_ALL, "%DOWNSTREAM_PEER_OTHERNAME_SAN%")]
    for number, fact in enumerate(facts):
        of_ours = f"size({_SPLIT}) == {len(facts)}"
        text = f"%CEL({of_ours} ? {_SPLIT}[{number}] : '{UNKNOWN}')%"
        values.append(_value(peer_key(fact), text, _cel()))
    config = SetFilterState(on_downstream_tls_handshake=values)
    return listener_components_pb2.Filter(
        name="envoy.filters.network.set_filter_state", typed_config=pack(config)
    )


def _value(key: str, text: str, *formatters: Any) -> Any:
    form = substitution_format_string_pb2.SubstitutionFormatString(
        formatters=formatters
    )
    form.text_format_source.inline_string = text
    return value_pb2.FilterStateValue(
        object_key=key, factory_key="envoy.string", format_string=form
    )


def _cel() -> Any:
    config = Cel()
    config.cel_config.enable_string_functions = True
    config.cel_config.enable_string_conversion = True
    return extension_pb2.TypedExtensionConfig(
        name="envoy.formatter.cel", typed_config=pack(config)
    )
