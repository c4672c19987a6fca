"""Asks services' declared checks itself, where nobody else can: Consul in `compose/mesh.yaml` has
no way to the pods.

Source: Consul, `agent/checks/check.go` for what passes. Invariant: a check talks to its own
service's address and port and to nothing else, whatever path it has and wherever an answer
redirects to: containers' labels are not trusted.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import aiohttp
import grpc
import grpc.aio
import structlog
from yarl import URL

from dockermesh.config.limits import parse_duration
from dockermesh.errors import DockermeshError
from dockermesh.model.contract import META_CONTAINER, META_WORKLOAD
from dockermesh.registrar.checks import Check, HealthStatus, command_of
from dockermesh.registrar.mapping import Registration
from dockermesh.registrar.script_checks import Commands, ScriptChecks
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

_INTERVAL, _TIMEOUT = 10.0, 10.0
# Seconds: a label must not make the registrar busy.
_SHORTEST = 0.5
# A service that has just been started is asked again soon, so that it need not wait for a whole
# interval.
_FIRST_RETRY = 0.25
# Bytes of an answer that are kept; Consul keeps 4 KiB, and it goes into a log line.
_MAX_OUTPUT = 1024
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
_REFUSED = "RBAC: access denied"


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whom a task asks what: another container is another one to ask, even at the same address."""

    check: Check
    address: str
    container: str
    is_meshed: bool


class Checker:
    """Asks the checks of the registrations that it follows, and calls `changed(group)` when an
    answer has changed.
    """

    def __init__(
        self,
        changed: Callable[[str], None],
        tls: Callable[[], ssl.SSLContext] | None = None,
        commands: Commands | None = None,
    ) -> None:
        """`tls` gives what a proxy is asked with that takes no plaintext, `commands` runs scripts
        in containers.
        """
        self._scripts = ScriptChecks(commands) if commands is not None else None
        self._changed = changed
        self._tls = tls
        self._encrypted: set[str] = set()
        self._results: dict[str, HealthStatus] = {}
        self._groups: dict[str, dict[str, _Asked]] = {}
        # By group, too: when an id goes to another one, that may come before the first lets go.
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def results(self) -> Mapping[str, HealthStatus]:
        """What came of it, by the registration's id; none before the first answer."""
        return MappingProxyType(self._results)

    def follow(self, group: str, registrations: Iterable[Registration]) -> None:
        """Ask the checks of these from now on, and no others of the group."""
        wanted = {
            r.id: _Asked(
                r.own_check,
                r.socket,
                r.meta.get(META_CONTAINER, ""),
                META_WORKLOAD in r.meta,
            )
            for r in registrations
            if r.own_check is not None
        }
        before = self._groups.pop(group, {})
        if wanted:
            self._groups[group] = wanted

        for identity in [i for i, asked in before.items() if wanted.get(i) != asked]:
            self._tasks.pop((group, identity)).cancel()
            others = (found for g, found in self._groups.items() if g != group)
            if any(identity in found for found in others):
                continue
            self._results.pop(identity, None)
            self._encrypted.discard(identity)

        for identity, asked in wanted.items():
            if before.get(identity) != asked:
                task = asyncio.create_task(
                    self._keep_asking(group, identity, asked), name=f"check {identity}"
                )
                self._tasks[group, identity] = task

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _keep_asking(self, group: str, identity: str, asked: _Asked) -> None:
        interval = max(_SHORTEST, _seconds(asked.check.get("Interval"), _INTERVAL))
        retry = Backoff(2 * _FIRST_RETRY, interval, jitter=0.0)
        has_passed = False
        while True:
            found = await self._ask(identity, asked)
            has_passed = has_passed or found.status == "passing"
            before, self._results[identity] = self._results.get(identity), found
            # What a page says may be different each time.
            if before is None or before.status != found.status:
                self._changed(group)
            # Not all at once, however many were started together.
            await asyncio.sleep(
                interval * random.uniform(0.9, 1.0) if has_passed else retry.next()
            )

    async def _ask(self, identity: str, asked: _Asked) -> HealthStatus:
        timeout = _seconds(asked.check.get("Timeout"), _TIMEOUT)
        command = command_of(asked.check)
        try:
            if command is not None and self._scripts is not None:
                return await self._scripts.ask(asked.container, command, timeout)
            async with asyncio.timeout(timeout):
                if "HTTP" in asked.check:
                    return await self._ask_http(identity, asked)
                if "TCP" in asked.check:
                    return await _ask_tcp(asked.address)
                return await _ask_grpc(asked)
        except TimeoutError:
            return HealthStatus("critical", "no answer in time")
        except (OSError, aiohttp.ClientError, ValueError, DockermeshError) as error:
            return HealthStatus("critical", _short(str(error) or type(error).__name__))
        except grpc.aio.AioRpcError as error:
            return HealthStatus(
                "critical", _short(f"gRPC: {error.code().name}: {error.details()}")
            )

    async def _ask_http(self, identity: str, asked: _Asked) -> HealthStatus:
        url = URL(str(asked.check["HTTP"]), encoded=True)
        if url.authority != asked.address:
            return HealthStatus("critical", "the path of the check must begin with '/'")
        if url.scheme == "https" or not asked.is_meshed or self._tls is None:
            return await self._request(asked, url)

        secure = url.with_scheme("https")
        try:
            if identity in self._encrypted:
                return await self._request(asked, secure, self._tls())
            return await self._request(asked, url)
        except aiohttp.ClientConnectionError:
            # Its policy has changed between STRICT and anything else; what worked is what is tried
            # first next time.
            is_encrypted = identity not in self._encrypted
            answer = await self._request(
                asked, *((secure, self._tls()) if is_encrypted else (url,))
            )
            (self._encrypted.add if is_encrypted else self._encrypted.discard)(identity)
            return answer

    async def _request(
        self, asked: _Asked, url: URL, tls: ssl.SSLContext | bool = True
    ) -> HealthStatus:
        if self._session is None:
            # A connection of its own for each: an old one says nothing about new ones.
            connector = aiohttp.TCPConnector(force_close=True, limit=100)
            headers = {
                "User-Agent": "dockermesh-check",
                "Accept": "text/plain, text/*, */*",
            }
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)

        method = str(asked.check.get("Method") or "GET").upper()
        # What it redirects to may be anywhere; that it answers so is as good as what it would have
        # answered.
        async with self._session.request(
            method, url, allow_redirects=False, ssl=tls
        ) as answer:
            text = (await answer.content.read(_MAX_OUTPUT)).decode("utf-8", "replace")
            output = _short(
                f"HTTP {method} {url}: {answer.status} {answer.reason} Output: {text}"
            )

        if asked.is_meshed and answer.status == 403 and text == _REFUSED:
            return HealthStatus(
                "passing",
                "an AuthorizationPolicy keeps the check from the app; its proxy answers",
            )
        if answer.status == 429:
            return HealthStatus("warning", output)
        return HealthStatus(
            "passing" if 200 <= answer.status < 400 else "critical", output
        )


async def _ask_tcp(address: str) -> HealthStatus:
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.close()
    return HealthStatus("passing", f"TCP connect {address}: Success")


async def _ask_grpc(asked: _Asked) -> HealthStatus:
    secure = bool(asked.check.get("GRPCUseTLS"))
    if asked.check.get("TLSSkipVerify"):
        return HealthStatus(
            "critical", "gRPC over TLS without verification cannot be asked from here"
        )

    channel = (
        grpc.aio.secure_channel(asked.address, grpc.ssl_channel_credentials())
        if secure
        else grpc.aio.insecure_channel(asked.address, [("grpc.enable_http_proxy", 0)])
    )
    async with channel:
        answer = await channel.unary_unary(_HEALTH)(b"")

    if answer == _SERVING:
        return HealthStatus("passing", f"gRPC check {asked.address}: success")
    return HealthStatus("critical", f"gRPC check {asked.address}: not SERVING")


def _seconds(text: object, default: float) -> float:
    found = parse_duration(str(text)) if text else default
    if isinstance(found, timedelta):
        found = found.total_seconds()
    return found if isinstance(found, float) and found > 0 else default


def _short(text: str) -> str:
    return text if len(text) <= _MAX_OUTPUT else text[:_MAX_OUTPUT] + "..."
