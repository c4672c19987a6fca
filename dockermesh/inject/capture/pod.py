"""Capture as a pod wants it: Istio's rules, placed around Docker's own, with connections that wait
for a proxy.

Two things differ from Kubernetes. Docker answers DNS itself at 127.0.0.11, through a jump it put
into the pod's OUTPUT chain, so our jump has to stand before it and Docker's chains are never
touched. And a container's proxy may be down for a moment: connections then wait (the kernel sends
the SYN again) instead of being refused.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from dockermesh.inject.capture.config import CaptureConfig
from dockermesh.inject.capture.parse import capture_config
from dockermesh.inject.capture.render import SIDECAR_HOLDS, PodOptions, render_capture
from dockermesh.model.contract import PROMETHEUS_PORT, READINESS_PORT

DOCKER_RESOLVER = IPv4Address("127.0.0.11")
# Readiness and Envoy's Prometheus page are the proxy's own, not the app's.
OWN_PORTS = (str(READINESS_PORT), str(PROMETHEUS_PORT))

__all__ = [
    "DOCKER_RESOLVER",
    "SIDECAR_HOLDS",
    "PodOptions",
    "pod_capture",
    "pod_capture_config",
]


def pod_capture_config(
    *,
    include_inbound_ports: str = "*",
    exclude_inbound_ports: str = "",
    include_outbound_ports: str = "",
    exclude_outbound_ports: str = "",
    include_outbound_ip_ranges: str = "*",
    exclude_outbound_ip_ranges: str = "",
    exclude_interfaces: str = "",
) -> CaptureConfig:
    """What a pod captures; each argument is the value of the annotation
    `traffic.sidecar.istio.io/<name>`.
    """
    return capture_config(
        {
            "InboundPortsInclude": include_inbound_ports,
            "InboundPortsExclude": ",".join([*OWN_PORTS, exclude_inbound_ports]),
            "OutboundPortsInclude": include_outbound_ports,
            "OutboundPortsExclude": exclude_outbound_ports,
            "OutboundIPRangesInclude": include_outbound_ip_ranges,
            "OutboundIPRangesExclude": exclude_outbound_ip_ranges,
            "ExcludeInterfaces": exclude_interfaces,
            "RedirectDNS": True,
            "DNSServersV4": [str(DOCKER_RESOLVER)],
            "EnableIPv6": True,
        }
    )


def pod_capture(config: CaptureConfig | None = None) -> str:
    """The file `/etc/dockermesh/capture.rules` of a sidecar's pod."""
    return render_capture(config or pod_capture_config(), PodOptions())
