"""What limits of rates are tried with: an app, the limiter's own process, with the orders that a
control plane would give it, and Redis.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import until
from policy_rig import App, Certificates
from ports import free_ports

from dockermesh.config.documents import read_text
from dockermesh.limiter.orders import Orders, Report, read_report
from dockermesh.model.rate_limits import LimitDomains
from dockermesh.translate.mesh.settings import MeshSettings, istio_config
from dockermesh.translate.security.global_limits import limiter_domains


class Quick(App):
    """Answers in one piece: in two, each request would wait for a delayed ACK."""

    def do_GET(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    do_POST = do_GET


def domains_of(config: str) -> LimitDomains:
    """What a control plane makes of the resources for the limiter."""
    reading = read_text(config)
    assert not [f for f in reading.findings if f.is_error], reading.findings
    return limiter_domains(istio_config(reading.resources))


def taken(times: list[float], *, rate: float, burst: float) -> int:
    """How many requests at these times find a token."""
    tokens, last, taken = burst, times[0], 0
    for at in times:
        tokens = min(burst, tokens + (at - last) * rate)
        last = at
        if tokens >= 1:
            tokens -= 1
            taken += 1
    return taken


class RunningLimiter:
    """One that serves on a port of its own; `restart` takes the same."""

    def __init__(self, certificates: Certificates, redis: str = "") -> None:
        self._certificates = certificates
        self._redis = redis
        self._domains: LimitDomains = {}
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> MeshSettings:
        """Of a mesh whose proxies find it."""
        return MeshSettings(limiter=f"127.0.0.1:{self.port}")

    def start(self, config: str) -> Report:
        """Serve the limits of this config; its first report."""
        self._domains = domains_of(config)
        command = [sys.executable, "-m", "dockermesh.limiter.process"]
        process = self._process = subprocess.Popen(
            [*command, f"127.0.0.1:{self.port}", self._redis],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._tell(Orders(self._domains, self._certificates.limiter()))
        assert process.stdout is not None
        return read_report(process.stdout.readline())

    def change(self, config: str) -> None:
        """Other limits from now on."""
        self._domains = domains_of(config)
        self._tell(Orders(self._domains))

    def report(self, wanted: Any = bool) -> Report:
        """The next report that is as wanted."""
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            report = read_report(self._process.stdout.readline())
            if wanted(report):
                return report

    def _tell(self, orders: Orders) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(orders.pack())
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """At once, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class RedisServer:
    """Debian's, with what it counts in a file that outlives it."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is missing: run scripts/setup redis")
        self._folder = folder
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        arguments = [part for k, v in options.items() for part in (f"--{k}", v)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", *arguments], stdout=log, stderr=log
            )
        until(self._answers, "Redis answers", 30)

    def _answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis(port=self.port, socket_timeout=1).ping())
        except redis.RedisError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
