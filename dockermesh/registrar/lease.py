"""The lease of a host in Consul's KV, and the burial of hosts whose lease is gone.

Every registrar holds `dockermesh/hosts/<host>` by a session that it renews. Invariant: a host is
cleaned up by others only after its lease was seen released for a whole minute, and is looked at
once more right before.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import structlog

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import FAILURES, ConsulError, is_unknown
from dockermesh.model.contract import KEY_HOSTS, KEY_WORKLOADS, META_HOST
from dockermesh.model.workload import JOINED

log = structlog.get_logger(__name__)

# Seconds. Consul ends a session between one and two of them after the last renewal.
TTL = 15
GRACE = 60.0
_RENEW = 5.0
_LOOK_EVERY = 3


def released_since(
    before: Mapping[str, float], known: Iterable[str], held: Collection[str], now: float
) -> dict[str, float]:
    """Since when each known host without a held lease has been seen without."""
    return {h: before.get(h, now) for h in known if h not in held}


class HostLease:
    """Holds the lease of `host` and cleans up after others."""

    def __init__(
        self,
        client: ConsulClient,
        host: str,
        *,
        renew: float = _RENEW,
        ttl: int = TTL,
        grace: float = GRACE,
    ) -> None:
        self._client = client
        self._host = host
        self._renew = renew
        self._ttl = ttl
        self._grace = grace
        self._session = ""
        self._acquired = False
        self._failing = False
        self._released: dict[str, float] = {}

    async def run(self, resync: Callable[[], None]) -> None:
        """Renew for ever; `resync` is called after every time in which Consul was away or forgot
        the session.
        """
        first = True
        turn = 0

        while True:
            try:
                async with asyncio.timeout(30):
                    lost = not await self._keep()
                    if (lost and not first) or self._failing:
                        resync()
                    first = self._failing = False
                    if turn % _LOOK_EVERY == 0:
                        await self._bury()
                    turn += 1
            except FAILURES as error:
                if not self._failing:
                    log.warning(
                        "Consul does not answer",
                        error=str(error)[:200] or type(error).__name__,
                    )
                self._failing = True
            await asyncio.sleep(
                self._renew if not self._failing else min(1.0, self._renew)
            )

    async def release(self) -> None:
        """Give the lease up, so that others need not wait for its end."""
        if self._session:
            await self._client.session.destroy(self._session)
            self._session = ""

    async def _keep(self) -> bool:
        """Whether the session of before still stands."""
        renewed = bool(self._session) and await self._is_renewed()
        if not renewed:
            # Without health checks: a session that ends whenever Consul restarts is no sign of this
            # host's death.
            self._session = await self._client.session.create(
                name=f"dockermesh registrar {self._host}",
                checks=[],
                lock_delay=0,
                behavior="release",
                ttl=self._ttl,
            )
            self._acquired = False

        if not self._acquired:
            value = json.dumps({"host": self._host})
            self._acquired = bool(
                await self._client.kv.put(
                    f"{KEY_HOSTS}{self._host}", value, acquire=self._session
                )
            )

        return renewed

    async def _is_renewed(self) -> bool:
        try:
            return bool(await self._client.session.renew(self._session))
        except ConsulError as error:
            if is_unknown(error):
                return False
            raise

    async def _bury(self) -> None:
        leases, hosts = await self._look()
        # Our own counts as held even in the moment between two sessions.
        held = {h for h, session in leases.items() if session} | {self._host}
        now = time.monotonic()
        self._released = released_since(
            self._released, hosts | leases.keys(), held, now
        )
        for host, since in list(self._released.items()):
            if now - since >= self._grace and not await self._is_held(host):
                log.warning("cleaning up after a dead host", host=host)
                await self._clean(host)
                self._released.pop(host, None)

    async def _look(self) -> tuple[dict[str, str], set[str]]:
        """Sessions by host, and all hosts that own something."""
        (_, leases), (_, keys) = await asyncio.gather(
            self._client.kv.get(KEY_HOSTS, recurse=True),
            self._client.kv.get(KEY_WORKLOADS, keys=True),
        )
        services = await self._client.agent.services()
        sessions = {
            p["Key"].removeprefix(KEY_HOSTS): p.get("Session") or ""
            for p in leases or ()
        }
        # A host that wrote nothing but records has no service to be found by.
        hosts = {k.split("/")[2] for k in keys or () if k.count("/") >= 3}
        # Outside Docker: no registrar, and so no lease.
        hosts.discard(JOINED)
        hosts |= {
            m
            for s in (services or {}).values()
            if (m := _owner(s.get("Meta"))) not in ("", JOINED)
        }

        return sessions, hosts

    async def _is_held(self, host: str) -> bool:
        _, pair = await self._client.kv.get(f"{KEY_HOSTS}{host}")
        return bool(pair and pair.get("Session"))

    async def _clean(self, host: str) -> None:
        await self._clean_agent(host)
        await self._clean_catalog(host)
        await self._client.kv.delete(f"{KEY_WORKLOADS}{host}/", recurse=True)
        await self._client.kv.delete(f"{KEY_HOSTS}{host}")

    async def _clean_agent(self, host: str) -> None:
        for service_id, service in (
            (await self._client.agent.services()) or {}
        ).items():
            if _owner(service.get("Meta")) == host:
                await self._client.agent.service.deregister(service_id)

    async def _clean_catalog(self, host: str) -> None:
        # What the dead host's own agent had registered: that agent is gone with it, so nobody puts
        # it back.
        _, names = await self._client.catalog.services()
        for name in names or ():
            _, instances = await self._client.catalog.service(name)
            for instance in instances or ():
                if _owner(instance.get("ServiceMeta")) == host:
                    await self._client.catalog.deregister(
                        node=instance["Node"], service_id=instance["ServiceID"]
                    )


def _owner(meta: Mapping[str, Any] | None) -> str:
    return str((meta or {}).get(META_HOST, ""))
