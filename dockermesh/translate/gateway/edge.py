"""What a gateway makes of headers that a client may have invented.

Invariant: of headers that proxies believe, only those pass that a trusted proxy in front of the
gateway wrote. The client's address is that of the connection (or of the header, counted from its
end, behind `numTrustedProxies` proxies), `x-forwarded-client-cert` says what the client's own
certificate says, and `x-envoy-*` is gone before anything reads it.

Source: Istio's MeshConfig reference, Topology; Envoy, "Configuring Envoy as an edge proxy".
"""

from __future__ import annotations

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import extension_pb2, protocol_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    header_mutation_pb2,
)
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from dockermesh.config.api.mesh_config import GatewayTopology
from dockermesh.translate.envoy.connection_manager import tell_client
from dockermesh.translate.envoy.packing import pack

_Manager = hcm_pb2.HttpConnectionManager
_FORWARDING = {
    "SANITIZE": _Manager.SANITIZE,
    "FORWARD_ONLY": _Manager.FORWARD_ONLY,
    "APPEND_FORWARD": _Manager.APPEND_FORWARD,
    "ALWAYS_FORWARD_ONLY": _Manager.ALWAYS_FORWARD_ONLY,
}
_FORWARDED = "x-forwarded(-([^c].*|.{0,10}|.{12,}))?"
"""`x-forwarded` and all that begins so, but `x-forwarded-client-cert`, about which the topology
has a setting of its own. RE2 knows no "but": what is left over has the length and the first letter
of `client-cert`.
"""
_OF_PROXIES = (
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    # Frameworks take these for the path itself, which policies would not have seen.
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
)
"""Where else a proxy says for whom it speaks, and what was asked of it."""
_ORIGINAL = "x-original-"
"""`x-original-url`, `-uri`, `-host`, ...: as with `x-rewrite-url`."""


def distrust(manager: hcm_pb2.HttpConnectionManager, topology: GatewayTopology) -> None:
    """Let the manager believe nothing that a client says about itself."""
    manager.xff_num_trusted_hops = topology.num_trusted_proxies
    # Behind Docker's address translation all clients seem to come from a private network, which
    # Envoy takes for internal unless it is told something else. This is nobody's address.
    manager.internal_address_config.cidr_ranges.add(
        address_prefix="255.255.255.255", prefix_len={"value": 32}
    )
    details = _FORWARDING.get(
        topology.forward_client_cert_details.upper(), _Manager.SANITIZE_SET
    )
    tell_client(manager, details)
    # CGI and some frameworks read `end_user` and `end-user` as one header, and filters know only
    # one of them.
    underscores = (
        protocol_pb2.HttpProtocolOptions.HeadersWithUnderscoresAction.DROP_HEADER
    )
    manager.common_http_protocol_options.headers_with_underscores_action = underscores
    invented = [string_pb2.StringMatcher(prefix="x-envoy-", ignore_case=True)]

    # Behind trusted proxies these are what they say of the client.
    if not topology.num_trusted_proxies:
        invented.extend(_said_by_proxies())

    cleaned = header_mutation_pb2.HeaderMutation(
        mutations=[_removal(matcher) for matcher in invented]
    )
    # Early: before routes are chosen, traces begun and filters asked.
    manager.early_header_mutation_extensions.append(
        extension_pb2.TypedExtensionConfig(
            name="envoy.http.early_header_mutation.header_mutation",
            typed_config=pack(cleaned),
        )
    )


def _said_by_proxies() -> list[string_pb2.StringMatcher]:
    """The headers in which a proxy tells apps of its client: address, host, port, scheme, path.

    Envoy itself makes only `x-forwarded-for` and `-proto` anew, and Istio's gateways pass the
    others on as they come.
    """
    names = [
        string_pb2.StringMatcher(exact=name, ignore_case=True) for name in _OF_PROXIES
    ]
    return [
        string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=_FORWARDED)),
        string_pb2.StringMatcher(prefix=_ORIGINAL, ignore_case=True),
        *names,
    ]


def _removal(matcher: string_pb2.StringMatcher) -> mutation_rules_pb2.HeaderMutation:
    removed = mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=matcher)
    return mutation_rules_pb2.HeaderMutation(remove_on_match=removed)
