"""Which application protocols a client's proxy offers under TLS, and so which version of HTTP
carries a request between two proxies.

HTTP/2 does, where both ends have it: the cluster negotiates (`auto_config`), and what is agreed on
decides. Neither app notices, but two things have to be told:

- **What the client spoke**, to a port of which nobody says what it speaks. The server's app gets
  what its client spoke, which HTTP/2 in between would hide; so the offer says it, and chooses one
  of two filter chains there.
- **Upgrades** (WebSocket) stay on HTTP/1.1. Envoy can carry them in HTTP/2, but then an app's
  plain 200, by which it passes over what was asked for, is the same as 101.

Istio has a filter of its own for this (`istio.alpn`), which Envoy lacks.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf import any_pb2
from xds.core.v3 import extension_pb2 as xds_extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from dockermesh.translate.envoy.packing import pack

HTTP1, HTTP2 = "http/1.1", "h2"
HTTP_PROTOCOL = "istio-http/1.1"
"""What a client offers for requests to a port that is not declared; the server then handles them as
HTTP.
"""
SPOKEN_HTTP1 = ("istio-HTTP/1.0", "istio-HTTP/1.1")
"""What it offers besides where its own client spoke HTTP/1, whatever carries it to the server."""

_NAMESPACE = "dockermesh"
_UPGRADES = "upgrade_protocol"
_SPOKEN, _CARRIER, _NOTHING = "spoken", "carrier", "-"
_LONGEST_TOKEN = 9
_OFFER_FILTER = "envoy.filters.http.set_filter_state"
_UPGRADE_FILTER = "dockermesh.upgrade"


class Spoken(Enum):
    """What requests become on their way to an endpoint."""

    AS_CLIENT = auto()
    HTTP1 = auto()
    HTTP2 = auto()
    NEGOTIATED = auto()
    """HTTP/2 where the endpoint's proxy has it, by what is agreed on under TLS."""


def offer_for_requests(metadata: Any, *, http2: bool, is_http1: bool) -> None:
    """Note in the metadata of a cluster that carries requests and bytes what to offer for requests.
    `http2`: what carries them is negotiated. `is_http1`: the server's app is to get HTTP/1,
    whatever a client spoke.
    """
    fields = metadata.filter_metadata[_NAMESPACE].fields
    fields[_CARRIER].string_value = HTTP2 if http2 else _NOTHING
    if is_http1:
        fields[_SPOKEN].string_value = f"{SPOKEN_HTTP1[-1]},"


def offer_for_upgrades(metadata: Any) -> None:
    """Note in the metadata of a cluster that negotiates what to offer for upgrades."""
    fields = metadata.filter_metadata[_NAMESPACE].fields
    fields[_UPGRADES].string_value = HTTP_PROTOCOL


def offer_filters(*, are_told: bool) -> list[hcm_pb2.HttpFilter]:
    """The filters that make offers for requests, if the route says so (`tell_spoken`), and for
    upgrades, if the cluster does. `are_told`: all routes say so.
    """
    requests = set_filter_state_pb2.Config()
    made = [hcm_pb2.HttpFilter(name=_OFFER_FILTER, typed_config=pack(requests))]
    if not are_told:
        # Last: it takes the place of the other's offer.
        upgrades = hcm_pb2.HttpFilter(name=_UPGRADE_FILTER, typed_config=_of_upgrades())
        made.append(upgrades)
    return made


def tell_spoken(per_filter: Any) -> None:
    """Have requests of a route, or to one of its clusters, tell the server what their client
    spoke, and stay on HTTP/1.1 if they are upgrades.
    """
    # The server's proxy takes the first that it knows. Of an upgrade the last one becomes what
    # nobody knows (`h2websocket`), and so HTTP/2 is not offered.
    text = (
        f"{_of_cluster(_SPOKEN)}istio-%PROTOCOL%,{HTTP_PROTOCOL},"
        f"{_of_cluster(_CARRIER)}%REQ(UPGRADE):{_LONGEST_TOKEN}%"
    )
    config = set_filter_state_pb2.Config(on_request_headers=[_offer(text)])
    per_filter[_OFFER_FILTER].CopyFrom(pack(config))


def _of_upgrades() -> any_pb2.Any:
    offer = set_filter_state_pb2.Config(
        on_request_headers=[_offer(_of_cluster(_UPGRADES))]
    )
    wrapped = extension_matcher_pb2.ExtensionWithMatcher(xds_matcher=_no_upgrade())
    wrapped.extension_config.name = _UPGRADE_FILTER
    wrapped.extension_config.typed_config.CopyFrom(pack(offer))
    return pack(wrapped)


def _no_upgrade() -> matcher_pb2.Matcher:
    """Skips the filter for requests without the header, which is all but a few."""
    predicate = matcher_pb2.Matcher.MatcherList.Predicate
    upgrade = predicate.SinglePredicate(
        input=_extension(
            "upgrade",
            http_inputs_pb2.HttpRequestHeaderMatchInput(header_name="upgrade"),
        )
    )
    upgrade.value_match.safe_regex.google_re2.SetInParent()
    upgrade.value_match.safe_regex.regex = ".*"

    skip = matcher_pb2.Matcher.OnMatch(
        action=_extension("skip", skip_action_pb2.SkipFilter())
    )
    rule = matcher_pb2.Matcher.MatcherList.FieldMatcher(
        predicate=predicate(not_matcher=predicate(single_predicate=upgrade)),
        on_match=skip,
    )
    return matcher_pb2.Matcher(
        matcher_list=matcher_pb2.Matcher.MatcherList(matchers=[rule])
    )


def _extension(name: str, config: Any) -> xds_extension_pb2.TypedExtensionConfig:
    return xds_extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))


def _of_cluster(key: str) -> str:
    return f"%METADATA(CLUSTER:{_NAMESPACE}:{key})%"


def _offer(text: str) -> value_pb2.FilterStateValue:
    value = value_pb2.FilterStateValue(
        object_key="envoy.network.application_protocols", skip_if_empty=True
    )
    value.format_string.text_format_source.inline_string = text
    # Else what is not there would be offered as `-`.
    value.format_string.omit_empty_values = True
    return value
