"""The limiter, as the control plane runs it: a process of its own, from the first limit that needs
it on.

It is told the limits and shows certificates of the mesh; when it ends, or hangs, it is started
again. What it counted in memory is gone then, what it counted in Redis is not. Invariant: nothing
here waits for it, so whatever becomes of it proxies are told of changes as ever.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import Callable

import structlog

from dockermesh.ca import Authority, AuthorityError, Leaf
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.errors import NotReadyError
from dockermesh.limiter.orders import Orders, Report, read_report
from dockermesh.limiter.server import ServerIdentity
from dockermesh.model.rate_limits import LimitDomains
from dockermesh.runtime.backoff import Backoff
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.security.global_limits import (
    is_limiter_asked,
    limiter_domains,
)

log = structlog.get_logger(__name__)
_LOOK_S = 30.0
_STOP_S = 2.0
SILENCE_S = 15.0
"""It says how it is every five seconds, and hangs if it is silent for so long."""
_START_S = 60.0
_GRACE_S = 2.0


class LimiterProcess:
    """Runs the limiter while something in the config asks it."""

    def __init__(
        self, settings: ControlPlaneSettings, authority: Callable[[], Authority]
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._config = IstioConfig()
        self._domains_of: tuple[str, ...] = ()
        self._leaf: Leaf | None = None
        self._told: ServerIdentity | None = None
        self._changed = asyncio.Event()
        self._is_asked = False
        self._is_running = False
        self.report = Report()
        self.pid = 0

    @property
    def problem(self) -> str:
        """Why nothing can be counted; empty if it can, or nothing is to be."""
        if not self._is_asked:
            return ""
        return self.report.problem or (
            "" if self._is_running else "the limiter does not run"
        )

    def take(self, mesh: MeshState) -> None:
        """A new state of the mesh."""
        settings = mesh.settings
        domains = (settings.trust_domain, *settings.trust_domain_aliases)
        if mesh.config is not self._config or domains != self._domains_of:
            self._config, self._domains_of = mesh.config, domains
            self._is_asked = is_limiter_asked(mesh.config)
            self._changed.set()

    def wake(self) -> None:
        """There are other roots, or another signer."""
        self._changed.set()

    async def run(self) -> None:
        """Keep it running; never ends."""
        backoff = Backoff(0.1, 10.0)
        while True:
            while not self._is_asked:
                await self._next_change()
            began = asyncio.get_running_loop().time()
            await self._run_once()
            if asyncio.get_running_loop().time() - began > _LOOK_S:
                backoff.reset()
            log.warning("the limiter ended", reason=self.report.problem or "unknown")
            await asyncio.sleep(backoff.next())

    async def _next_change(self, patience: float | None = None) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _run_once(self) -> None:
        """From its start to its end."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dockermesh.limiter.process"),
            *(self._settings.limiter, self._settings.limiter_redis),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.pid, self._told = process.pid, None
        # What was wrong is so until this one says otherwise.
        self.report = Report(problem=self.report.problem)
        assert process.stdin is not None
        assert process.stdout is not None
        feeding = asyncio.ensure_future(self._feed(process.stdin))
        try:
            await self._listen(process.stdout)
        finally:
            self._is_running = False
            feeding.cancel()
            process.stdin.close()
            await _end(process)

    async def _feed(self, stdin: asyncio.StreamWriter) -> None:
        """Tell it everything, and then each change."""
        made_of: IstioConfig | None = None
        told: LimitDomains | None = None
        try:
            while True:
                identity = self._identity()
                # Nothing before it can be told whom to take.
                if identity is not None:
                    domains = told
                    if made_of is not self._config:
                        made_of, domains = self._config, limiter_domains(self._config)
                    orders = Orders(
                        domains if domains != told else None,
                        identity if identity != self._told else None,
                    )
                    if orders != _NOTHING_NEW:
                        stdin.write(orders.pack())
                        await stdin.drain()
                    told, self._told = domains, identity
                await self._next_change(_LOOK_S)
        except (ConnectionError, RuntimeError):
            pass  # it has ended

    def _identity(self) -> ServerIdentity | None:
        """What it is to show now; None if that cannot be made."""
        now = datetime.datetime.now(datetime.UTC)
        try:
            authority = self._authority()
            if self._leaf is None or not authority.is_current(self._leaf, now):
                self._leaf = authority.issue_server(list(self._settings.server_names))
        except (AuthorityError, NotReadyError) as error:
            log.warning("the limiter gets no certificate", reason=str(error))
            return self._told
        return ServerIdentity(
            self._leaf.certificate,
            self._leaf.key,
            authority.roots_pem,
            self._domains_of,
        )

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        while line := await self._next_line(stdout):
            report = read_report(line)
            if report.problem != self.report.problem:
                log.warning("the limiter", problem=report.problem or "counts again")
            self.report = report
            self._is_running = bool(report.port)

    async def _next_line(self, stdout: asyncio.StreamReader) -> bytes:
        """What it says next; nothing at its end, or where it hangs."""
        patience = SILENCE_S if self._is_running else _START_S
        reading = asyncio.ensure_future(stdout.readline())
        try:
            await asyncio.wait((reading,), timeout=patience)
            if not reading.done():
                # Perhaps it was this process that stood still: then there is something to read.
                await asyncio.wait((reading,), timeout=_GRACE_S)
            if reading.done():
                return reading.result()
        finally:
            reading.cancel()

        problem = f"the limiter hangs: it has said nothing for {patience:g} s"
        log.warning("the limiter is ended", reason=problem)
        self.report = Report(problem=problem)
        return b""


_NOTHING_NEW = Orders()


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends with its orders; if it does not, it is killed."""
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
