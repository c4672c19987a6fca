"""Whether anything answers where packages come from, found out in seconds.

Downloaders wait for minutes for what is not there, since what is there may be slow. So that is
asked first: where nobody takes a connection they are told to be quick (`HURRY`, `HURRY_APT`), and
else they keep the patience that they are set to.

Has no import of ours: it runs by itself, too, in containers and in `scripts/setup`.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

PATIENCE_S = 4.0
HURRY = {
    "PIP_RETRIES": "0",
    "PIP_TIMEOUT": "4",
    "PIP_DEFAULT_TIMEOUT": "4",
    # glibc's, for names: by default it waits for 10 s and more, each time.
    "RES_OPTIONS": "timeout:2 attempts:1",
}
HURRY_APT = (
    'Acquire::Retries "0";\nAcquire::http::Timeout "4";\nAcquire::https::Timeout "4";\n'
)
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "ftp": 21}


def answers(urls: Iterable[str], environ: Mapping[str, str], proxy: str = "") -> bool:
    """Whether one of the hosts of these URLs takes a connection, or the proxy that is in between.
    True if none of them is elsewhere.
    """
    wanted = {place for url in urls if (place := _place(url, environ, proxy))}
    if not wanted:
        return True
    results: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for host, port in wanted:
        # A daemon: looking up a name cannot be ended.
        threading.Thread(
            target=lambda h=host, p=port: results.put(_connects(h, p)), daemon=True
        ).start()
    try:
        return any(results.get(timeout=PATIENCE_S) for _ in wanted)
    except queue.Empty:
        return False


def _place(url: str, environ: Mapping[str, str], proxy: str) -> tuple[str, int] | None:
    """Host and port to connect to; None if the URL is of this machine, or cannot be read."""
    try:
        target = urlsplit(url)
        through = proxy or _proxy_of(target.scheme, target.hostname or "", environ)
        met = urlsplit(through if "//" in through or not through else f"//{through}")
        place = met if through else target
        port = place.port or _PORTS.get(place.scheme or "http", 0)
    except ValueError:
        return None
    is_remote = target.scheme in _PORTS and place.hostname is not None and port > 0
    return (place.hostname or "", port) if is_remote else None


def _proxy_of(scheme: str, host: str, environ: Mapping[str, str]) -> str:
    set_ones = {k.lower(): v for k, v in environ.items() if v}
    direct = [
        part.strip().lstrip("*.") for part in set_ones.get("no_proxy", "").split(",")
    ]
    if "*" in set_ones.get("no_proxy", "").split(",") or any(
        host == part or host.endswith(f".{part}") for part in direct if part
    ):
        return ""
    return set_ones.get(f"{scheme}_proxy") or set_ones.get("all_proxy", "")


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), PATIENCE_S).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1:], os.environ))
