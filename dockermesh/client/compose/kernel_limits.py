"""What this host's kernel allows, where that is less than many proxies need."""

from __future__ import annotations

from pathlib import Path

_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
# Envoy follows two files, the mesh's roots and how to read them, with an instance each. The kernel
# counts by user, and all proxies of a host run as the same one.
_PER_PROXY = 2
FIX = "sysctl fs.inotify.max_user_instances=1024, as root, on the engine's host"


def watch_shortage(proxies: int) -> str:
    """Why so many proxies cannot run on this kernel; empty if they can, or nobody knows."""
    try:
        allowed = int(_INSTANCES.read_text())
    except (OSError, ValueError):
        return ""
    if proxies * _PER_PROXY <= allowed:
        return ""
    return (
        f"{proxies} proxies need {proxies * _PER_PROXY} inotify instances, and the kernel allows a"
        f" user {allowed}: Envoy would crash (exit status 139)"
    )
