"""Which packets of a pod go through its proxy, as `iptables-restore` text.

Invariant: pure. A configuration in, the text out; nothing here runs a command or looks at the
machine it is on.
"""

from dockermesh.inject.capture.config import CaptureConfig, Cidrs, OwnerGroups, Ports
from dockermesh.inject.capture.parse import capture_config, parse_capture_config
from dockermesh.inject.capture.pod import (
    SIDECAR_HOLDS,
    PodOptions,
    pod_capture,
    pod_capture_config,
)
from dockermesh.inject.capture.render import MachineOptions, render_capture

__all__ = [
    "SIDECAR_HOLDS",
    "CaptureConfig",
    "Cidrs",
    "MachineOptions",
    "OwnerGroups",
    "PodOptions",
    "Ports",
    "capture_config",
    "parse_capture_config",
    "pod_capture",
    "pod_capture_config",
    "render_capture",
]
