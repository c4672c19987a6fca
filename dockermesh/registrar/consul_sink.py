"""Consul as the registrar's sink: agent-local services, their Docker checks, and workloads in KV.

Invariant: touched are only entries whose Meta or key names this host; what Consul has already is
not sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

import structlog

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import consul_errors
from dockermesh.errors import RegistryError
from dockermesh.model import Workload
from dockermesh.model.contract import (
    KEY_WORKLOADS,
    META_CONTAINER,
    META_HASH,
    META_HOST,
    META_WORKLOAD,
    WORKLOADS_KEPT,
)
from dockermesh.registrar.checks import check_id, socket
from dockermesh.registrar.desired import Desired
from dockermesh.registrar.lease import HostLease
from dockermesh.registrar.mapping import Registration
from dockermesh.registrar.plan import Conflict, Entry, Plan, plan_registrations

log = structlog.get_logger(__name__)

T = TypeVar("T")
# Slow answers are waited for: giving up early would only put more load on a Consul that is slow
# already.
_TIMEOUT = 40.0
# How long a group waits until it is known what Consul has.
_KNOWN_WITHIN = 5.0
# How often an unchanged Docker check is confirmed, so that its TTL never runs out.
_BEAT = 3600.0


class ConsulSink:
    """Writes to the agent that `client` talks to, as `host`."""

    def __init__(
        self, client: ConsulClient, host: str, *, lease: HostLease | None = None
    ) -> None:
        self._client = client
        self._host = host
        self._lease = lease or HostLease(client, host)
        self._entries: dict[str, Entry] = {}
        self._workloads: dict[str, str] = {}
        self._known = asyncio.Event()
        self._beats: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        # Which ids and keys were written when, so that a listing made before does not overwrite
        # what is known since.
        self._clock = 0
        self._written: dict[str, int] = {}
        self._conflicts: set[tuple[str, str]] = set()

    async def run(self, resync: Callable[[], None]) -> None:
        """Hold this host's lease and clean up after dead hosts, for ever."""
        await self._lease.run(resync)

    async def refresh(self) -> None:
        """Read this agent's services and checks, and this host's workloads."""
        self._clock += 1
        start = self._clock

        async with consul_errors("agent"), asyncio.timeout(_TIMEOUT):
            services, checks, (_, pairs) = await asyncio.gather(
                self._client.agent.services(),
                self._client.agent.checks(),
                self._client.kv.get(f"{KEY_WORKLOADS}{self._host}/", recurse=True),
            )

        self._entries = self._merge(
            _entries(services or {}, checks or {}), self._entries, start
        )
        found = {
            p["Key"]: (p["Value"] or b"").decode("utf-8", "replace")
            for p in pairs or ()
        }
        is_marked = found.pop(f"{KEY_WORKLOADS}{self._host}/{WORKLOADS_KEPT}", None)
        if found and is_marked is None:
            await self._mark_kept()
        self._workloads = self._merge(found, self._workloads, start)
        self._written = {k: n for k, n in self._written.items() if n >= start}
        self._known.set()

    async def apply(self, group: str, desired: Desired) -> None:
        """Make this host's entries of `group` those of `desired`."""
        await self._until_known()
        plan = self._plan(group, desired)
        self._tell_of(plan.conflicts)

        # What is registered anew has its health in the body.
        updates = {r.id: r for r in (*plan.update, *self._due(plan.wanted))}
        for registration in plan.register:
            updates.pop(registration.id, None)

        await _all(
            [
                *self._workload_steps(group, desired.workloads),
                *(
                    self._deregister(service_id, group)
                    for service_id in plan.deregister
                ),
                *(
                    self._register(registration, group)
                    for registration in plan.register
                ),
                *(self._update(registration) for registration in updates.values()),
            ]
        )

    async def _until_known(self) -> None:
        # Not for ever: what is newer of the group by then would wait behind this.
        try:
            await asyncio.wait_for(self._known.wait(), _KNOWN_WITHIN)
        except TimeoutError:
            raise RegistryError(
                "Consul has not been read yet",
                where="agent",
                fix="none: it is tried again",
            ) from None

    def _plan(self, group: str, desired: Desired) -> Plan:
        wanted = {i for r in desired.registrations for i in (r.id, r.own_id)}
        have = [e for e in self._entries.values() if e.group == group or e.id in wanted]
        return plan_registrations(
            have,
            desired.registrations,
            host=self._host,
            group=group,
            retained=desired.retained,
        )

    def _tell_of(self, conflicts: Iterable[Conflict]) -> None:
        for conflict in conflicts:
            wanted, holder = conflict.wanted, conflict.holder
            if (wanted.id, wanted.own_id) in self._conflicts:
                continue
            self._conflicts.add((wanted.id, wanted.own_id))
            log.warning(
                "service id is another's in Consul; it stays so",
                id=wanted.id,
                holder=holder.where,
                holder_host=holder.host or "no registrar",
                wanted_by=wanted.own_id,
                registered_as=conflict.given or "nothing",
            )

    def _workload_steps(
        self, group: str, workloads: Iterable[Workload]
    ) -> list[Awaitable[None]]:
        prefix = f"{KEY_WORKLOADS}{self._host}/"
        aged = (
            w.aged(_record(self._workloads.get(prefix + w.name))) for w in workloads
        )
        wanted = {
            prefix + w.name: json.dumps(w.to_dict(), sort_keys=True) for w in aged
        }
        changed = {
            k: text for k, text in wanted.items() if self._workloads.get(k) != text
        }
        steps: list[Awaitable[None]] = [
            self._put_workload(k, text) for k, text in changed.items()
        ]

        # A group has one workload at most, and is called as it.
        own = prefix + group
        if own in self._workloads and own not in wanted:
            steps.append(self._delete_workload(own))
        return steps

    async def retain(self, groups: Collection[str]) -> None:
        """Remove this host's entries of containers that are gone."""
        prefix = f"{KEY_WORKLOADS}{self._host}/"
        stale = [
            e
            for e in self._entries.values()
            if e.host == self._host and e.group not in groups
        ]
        for entry in stale:
            log.info("removing a stale entry", id=entry.id, container=entry.container)
        keys = [k for k in self._workloads if k.removeprefix(prefix) not in groups]
        await _all(
            [self._deregister(e.id, e.group) for e in stale]
            + [self._delete_workload(k) for k in keys]
        )

    def _merge(
        self, found: dict[str, T], known: dict[str, T], start: int
    ) -> dict[str, T]:
        newer = {k for k, written in self._written.items() if written >= start}
        kept = {k: v for k, v in found.items() if k not in newer}
        return kept | {k: known[k] for k in newer if k in known}

    def _due(self, registrations: Iterable[Registration]) -> list[Registration]:
        now = time.monotonic()
        return [
            r
            for r in registrations
            if r.health and now - self._beats.get(r.id, -_BEAT) >= _BEAT
        ]

    @contextlib.asynccontextmanager
    async def _writing(self, key: str) -> AsyncIterator[None]:
        # Two containers may use one id one after the other (a recreated container keeps its name).
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            self._stamp(key)
            try:
                async with consul_errors(key), asyncio.timeout(_TIMEOUT):
                    yield
            finally:
                self._stamp(key)
        # Nobody waits: locks of ids that never come again would pile up.
        if not lock.locked():
            self._locks.pop(key, None)

    def _stamp(self, key: str) -> None:
        self._clock += 1
        self._written[key] = self._clock

    async def _put(
        self, path: str, body: Any = None, params: list[tuple[str, str]] | None = None
    ) -> None:
        if not await self._client.put(path, body, params, seconds=_TIMEOUT):
            raise RegistryError(
                f"Consul does not know {path}",
                where="agent",
                fix="none: it is registered again",
            )

    async def _register(self, registration: Registration, group: str) -> None:
        async with self._writing(registration.id):
            existed = registration.id in self._entries
            # Unknown until it is answered: after a failure it may or may not have happened.
            self._entries.pop(registration.id, None)
            body = registration.body()
            await self._put(
                "/v1/agent/service/register",
                body,
                [("replace-existing-checks", "true")],
            )
            self._entries[registration.id] = Entry(
                id=registration.id,
                fingerprint=body["Meta"][META_HASH],
                host=self._host,
                container=registration.meta.get(META_CONTAINER, ""),
                group=group,
                status=registration.health.status if registration.health else None,
                tags=frozenset(registration.tags),
                where=registration.where,
            )
            log.info(
                "registered",
                id=registration.id,
                name=registration.name,
                address=registration.address,
            )

        if registration.health and existed:
            await self._update(registration)

    async def _update(self, registration: Registration) -> None:
        health = registration.health
        if health is None:
            return

        async with self._writing(registration.id):
            entry = self._entries.pop(registration.id, None)
            if entry is None:
                return

            # A passing check's words differ each time, and each would wake all who watch.
            output = health.output if health.status != "passing" else ""
            path = f"/v1/agent/check/update/{quote(registration.check_id, safe=':')}"
            await self._put(path, {"Status": health.status, "Output": output})
            self._entries[registration.id] = replace(entry, status=health.status)
            self._beats[registration.id] = time.monotonic()
            if entry.status != health.status:
                log.info(
                    "health changed",
                    id=entry.id,
                    status=health.status,
                    output=health.output,
                )

    async def _deregister(self, service_id: str, group: str) -> None:
        async with self._writing(service_id):
            entry = self._entries.get(service_id)
            if entry is None or entry.group != group:
                return
            await self._client.agent.service.deregister(service_id)
            self._entries.pop(service_id, None)
            self._beats.pop(service_id, None)
            log.info("deregistered", id=service_id)

    async def _mark_kept(self) -> None:
        """Tell records that are taken away from those that are lost: with them this is lost, too.

        Written beside records that Consul has, so after a loss not before they are back.
        """
        key = f"{KEY_WORKLOADS}{self._host}/{WORKLOADS_KEPT}"
        async with consul_errors("kv"):
            await self._client.kv.put(key, "{}")

    async def _put_workload(self, key: str, value: str) -> None:
        async with self._writing(key):
            self._workloads.pop(key, None)
            if not await self._client.kv.put(key, value):
                raise RegistryError(
                    "Consul did not store the workload",
                    where=key,
                    fix="see Consul's log",
                )
            self._workloads[key] = value
            log.info("workload written", key=key)

    async def _delete_workload(self, key: str) -> None:
        async with self._writing(key):
            if key in self._workloads:
                await self._client.kv.delete(key)
                self._workloads.pop(key, None)
                log.info("workload removed", key=key)


async def _all(steps: Sequence[Awaitable[None]]) -> None:
    """Take all steps even if some fail, then fail with the first failure."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _record(text: str | None) -> Workload | None:
    try:
        return Workload.from_dict(json.loads(text)) if text else None
    except (ValueError, TypeError, AttributeError):
        # Not ours, or damaged: it is written anew.
        return None


def _where(service: Mapping[str, Any]) -> str:
    place = socket(str(service.get("Address") or ""), int(service.get("Port") or 0))
    return f"{service.get('Service', '')}@{place}"


def _entries(services: dict[str, Any], checks: dict[str, Any]) -> dict[str, Entry]:
    statuses = {c.get("CheckID", i): c for i, c in checks.items()}
    found = {}
    for service_id, service in services.items():
        meta = service.get("Meta") or {}
        check = statuses.get(check_id(service_id))
        container = meta.get(META_CONTAINER, "")
        found[service_id] = Entry(
            id=service_id,
            fingerprint=meta.get(META_HASH, ""),
            host=meta.get(META_HOST, ""),
            container=container,
            group=meta.get(META_WORKLOAD) or container,
            status=check.get("Status") if check else None,
            tags=frozenset(service.get("Tags") or ()),
            where=_where(service),
        )

    return found
