"""Which headers of an incoming request go along on the calls it causes.

A proxy can start and report spans, but only the service knows which outgoing call belongs to which
incoming request.
"""

from __future__ import annotations

from collections.abc import Mapping

END_USER = "end-user"

_NAMES = frozenset(
    {
        # Request id and trace context: Envoy, W3C, Zipkin's single header, OpenTracing, Google
        # Cloud, gRPC.
        "x-request-id",
        "traceparent",
        "tracestate",
        "baggage",
        "b3",
        "x-ot-span-context",
        "x-cloud-trace-context",
        "grpc-trace-bin",
        # Who is asking, and with what: routing rules and policies further down look at these.
        END_USER,
        "user-agent",
        "cookie",
        "authorization",
        "jwt",
    }
)
_PREFIXES = ("x-b3-", "x-datadog-")


def propagated(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers to pass on; names are lower case on both sides."""
    return {
        name: value
        for name, value in headers.items()
        if name in _NAMES or name.startswith(_PREFIXES)
    }
