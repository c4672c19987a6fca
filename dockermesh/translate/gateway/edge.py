"""What a gateway makes of headers that a client may have invented.

Invariant: of headers that proxies believe, only those pass that a proxy in front of the gateway
wrote: one that the user told us of, or a process of the host itself. The client's address, which
policies see, is that of the connection (or of the header, counted from its end, behind
`numTrustedProxies` proxies), `x-forwarded-client-cert` says what the client's own certificate says,
and `x-envoy-*` is gone before anything reads it.

Of the host come connections from its own address on the gateway's network: a reverse proxy there,
and whatever else the engine carries itself (clients over IPv6, containers that call a published
port, everybody where it has no packet filter). So what it says of the client is for apps, as
without the mesh, and never for policies.

Source: Istio's MeshConfig reference, Topology; Envoy, "Configuring Envoy as an edge proxy".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, extension_pb2, protocol_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    header_mutation_pb2,
)
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from dockermesh.config.api.mesh_config import GatewayTopology
from dockermesh.config.decode import decode
from dockermesh.config.findings import Findings
from dockermesh.model.workload import PROXY_CONFIG_LABEL
from dockermesh.translate.envoy.connection_manager import tell_client
from dockermesh.translate.envoy.packing import pack, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import Proxy

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
    "x-scheme",
    "x-url-scheme",
)
"""Where else a proxy says for whom it speaks."""
_REWRITTEN = "x-rewrite-url"
_ORIGINAL = "x-original-"
"""`x-original-url`, `-uri`, `-host`, ..., and the other one: frameworks take these for the path
itself, which policies would not have seen.
"""


@dataclass(frozen=True, slots=True)
class Peers:
    """Who connects to a gateway, and the condition of the filter chain for them."""

    are_neighbours: bool
    match: Mapping[str, Any]


def topology_of(proxy: Proxy, settings: MeshSettings) -> GatewayTopology:
    """What stands in front of this gateway: by its own label, else by the mesh's settings. What
    cannot be read says nothing.
    """
    usual = settings.gateway_topology or GatewayTopology()
    try:
        found = yaml.safe_load(proxy.labels.get(PROXY_CONFIG_LABEL, ""))
    except (yaml.YAMLError, RecursionError):
        return usual
    if not isinstance(found, Mapping) or found.get("gatewayTopology") is None:
        return usual

    findings = Findings()
    own = decode(GatewayTopology, found["gatewayTopology"], findings.at())
    return usual if findings.found else own


def told_apart(topology: GatewayTopology, bridges: Iterable[str]) -> Iterator[Peers]:
    """Everybody; and, from the host's addresses on its networks, processes of the host."""
    yield Peers(False, {})
    sources = [_single(address) for address in bridges]
    # Behind proxies that the user told us of it makes no difference who connects.
    if sources and not topology.num_trusted_proxies:
        yield Peers(True, {"source_prefix_ranges": sources})


def _single(address: str) -> address_pb2.CidrRange:
    length = ipaddress.ip_address(address).max_prefixlen
    return address_pb2.CidrRange(address_prefix=address, prefix_len=uint32(length))


def distrust(
    manager: hcm_pb2.HttpConnectionManager,
    topology: GatewayTopology,
    *,
    is_neighbour: bool = False,
) -> None:
    """Let the manager believe nothing that a client says about itself; of a neighbour, a process of
    the same host, let it pass on to apps what it says of its client.
    """
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
        invented.extend(_paths_of_proxies())
        if not is_neighbour:
            invented.extend(_said_by_proxies())

    mutations = [_removal(matcher) for matcher in invented]
    if is_neighbour:
        mutations.append(_append_peer())
        # Envoy makes `x-forwarded-proto` anew unless it trusts a hop. That is the one just
        # appended: the connection's own address is who the client is, whatever stands before.
        manager.xff_num_trusted_hops = 1
        manager.skip_xff_append = True

    cleaned = header_mutation_pb2.HeaderMutation(mutations=mutations)
    # Early: before routes are chosen, traces begun and filters asked.
    manager.early_header_mutation_extensions.append(
        extension_pb2.TypedExtensionConfig(
            name="envoy.http.early_header_mutation.header_mutation",
            typed_config=pack(cleaned),
        )
    )


def _paths_of_proxies() -> list[string_pb2.StringMatcher]:
    return [
        string_pb2.StringMatcher(prefix=_ORIGINAL, ignore_case=True),
        string_pb2.StringMatcher(exact=_REWRITTEN, ignore_case=True),
    ]


def _said_by_proxies() -> list[string_pb2.StringMatcher]:
    """The headers in which a proxy tells apps of its client: address, host, port, scheme.

    Envoy itself makes only `x-forwarded-for` and `-proto` anew, and Istio's gateways pass the
    others on as they come.
    """
    names = [
        string_pb2.StringMatcher(exact=name, ignore_case=True) for name in _OF_PROXIES
    ]
    return [
        string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=_FORWARDED)),
        *names,
    ]


def _removal(matcher: string_pb2.StringMatcher) -> mutation_rules_pb2.HeaderMutation:
    removed = mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=matcher)
    return mutation_rules_pb2.HeaderMutation(remove_on_match=removed)


def _append_peer() -> mutation_rules_pb2.HeaderMutation:
    address = base_pb2.HeaderValue(
        key="x-forwarded-for", value="%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    )
    return mutation_rules_pb2.HeaderMutation(
        append=base_pb2.HeaderValueOption(
            header=address,
            append_action=base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
        )
    )
