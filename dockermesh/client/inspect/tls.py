"""TLS between proxies: what a client speaks to an endpoint, whom it expects there, and whether the
target takes it.

Source: Envoy's `transport_socket_matches` (the first whose labels the endpoint has); Istio's TLS
modes, told by the certificate that is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockermesh.client.inspect import routing
from dockermesh.client.inspect.dump import Json
from dockermesh.client.inspect.matching import Answer, either, text_matches

PLAIN, SIMPLE, MUTUAL, MESH, DIFFERS = (
    "DISABLE",
    "SIMPLE",
    "MUTUAL",
    "ISTIO_MUTUAL",
    "auto",
)
_WORKLOAD_CERTIFICATE = "default"
_MESH_PROTOCOLS = ("istio", "istio-http/1.1", "istio-h2")


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """`mode` in a DestinationRule's words; `peers` are the matchers of identities that the server
    may have.
    """

    mode: str = PLAIN
    peers: tuple[Json, ...] = ()

    @property
    def protocols(self) -> tuple[str, ...]:
        """What the client offers by ALPN, or speaks in plaintext."""
        return _MESH_PROTOCOLS if self.mode == MESH else ("http/1.1",)

    def expects(self, identity: str) -> Answer:
        """Whether a server of this identity is taken for the right one; None if its identity is not
        known.
        """
        if not self.peers or self.mode == PLAIN:
            return True
        return (
            either(text_matches(peer, identity) for peer in self.peers)
            if identity
            else None
        )


def mode_of(cluster: Json) -> str:
    """What is spoken to a cluster; `auto` if that depends on the endpoint."""
    return (
        DIFFERS
        if cluster.get("transport_socket_matches")
        else upstream_tls(cluster, {}).mode
    )


def upstream_tls(cluster: Json, endpoint: Json) -> UpstreamTls:
    """What is spoken to an endpoint of a cluster."""
    context = _transport_socket(cluster, endpoint).get("typed_config", {})
    if not str(context.get("@type", "")).endswith("UpstreamTlsContext"):
        return UpstreamTls()

    common = context.get("common_tls_context", {})
    peers = _expected_peers(common)
    shown = [
        config.get("name")
        for config in common.get("tls_certificate_sds_secret_configs", ())
    ]

    if _WORKLOAD_CERTIFICATE in shown:
        return UpstreamTls(MESH, peers)
    return UpstreamTls(
        MUTUAL if shown or common.get("tls_certificates") else SIMPLE, peers
    )


def _transport_socket(cluster: Json, endpoint: Json) -> Json:
    """The first of the cluster's sockets whose labels the endpoint has, else the cluster's own."""
    metadata = endpoint.get("metadata", {}).get("filter_metadata", {})
    labels = metadata.get("envoy.transport_socket_match", {})

    for candidate in cluster.get("transport_socket_matches", ()):
        if candidate.get("match", {}).items() <= labels.items():
            return candidate.get("transport_socket") or {}
    return cluster.get("transport_socket") or {}


def _expected_peers(common: Json) -> tuple[Json, ...]:
    """The matchers of URI names; with SDS for the roots, they are beside it, as a default."""
    combined = common.get("combined_validation_context", {})
    validation = combined.get("default_validation_context") or common.get(
        "validation_context", {}
    )

    sans = validation.get("match_typed_subject_alt_names", ())
    return tuple(san.get("matcher", {}) for san in sans if san.get("san_type") == "URI")


def is_taken(chain: Json, mode: str) -> bool:
    """Whether a filter chain of the target speaks what the client does."""
    context = chain.get("transport_socket", {}).get("typed_config")
    if context is None:
        # Without a socket of its own a chain hands the bytes on, whatever they are, unless it reads
        # them as HTTP.
        return (
            mode == PLAIN
            or routing.network_filter(chain, "HttpConnectionManager") is None
        )
    return mode in {MESH, MUTUAL} or (
        mode == SIMPLE and not context.get("require_client_certificate")
    )
