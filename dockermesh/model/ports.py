"""Port numbers and the user id of the proxy. They are Istio's, so tools and habits carry over."""

ADMIN_PORT = 15000
"""The harmless pages of Envoy's admin, on loopback; the admin itself is a unix socket."""
OUTBOUND_PORT = 15001
"""Where captured outbound connections arrive (Istio: proxyListenPort)."""
INBOUND_PORT = 15006
"""Where captured inbound connections arrive (Istio: proxyInboundListenPort)."""
XDS_PLAINTEXT_PORT = 15010
"""xDS without TLS: only on request, only on loopback."""
XDS_TLS_PORT = 15012
"""xDS over TLS."""
DEBUG_PORT = 15014
"""The control plane's metrics, health and debug pages."""
READINESS_PORT = 15021
"""The proxy's /healthz/ready."""
DNS_PORT = 15053
"""Where the app's DNS queries are redirected."""
PROMETHEUS_PORT = 15090
"""The proxy's /stats/prometheus."""
API_PORT = 8080
"""The config API."""
PROXY_UID = 1337
"""User and group of Envoy; capture rules let its traffic pass."""
