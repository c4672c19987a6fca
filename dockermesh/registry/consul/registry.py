"""The bridge: follows Consul and publishes a new Catalog whenever something changed.

Invariants: nothing is published before the whole catalog was read once, so a restarted control
plane never takes anything away; what did not change is the same object as before; an outage changes
nothing but `Catalog.degraded`. A lone change is published at once, further ones at most every 20
ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.model.catalog import Catalog
from dockermesh.model.contract import KEY_WORKLOADS, service_domain
from dockermesh.model.service import Service
from dockermesh.model.workload import Workload
from dockermesh.registry.accept import accepted_names, quoted
from dockermesh.registry.consul.assembly import Assembly, Instances
from dockermesh.registry.consul.catalog_copy import CatalogCopy
from dockermesh.registry.consul.convert import convert_entries
from dockermesh.registry.consul.follow import (
    FewConnections,
    Follower,
    PerService,
    Start,
    refused_by_limit,
)
from dockermesh.registry.consul.guard import HOLD, DropGuard
from dockermesh.registry.consul.records_guard import HOLD as RECORDS_HOLD
from dockermesh.registry.consul.records_guard import RecordsGuard
from dockermesh.registry.consul.unwritten import Unwritten
from dockermesh.registry.consul.watch import ATTENTIVE, OVERDUE_S, Outages, Watch
from dockermesh.registry.consul.workloads import WorkloadRecords, are_kept
from dockermesh.registry.grace import Grace
from dockermesh.registry.protocols import Publish
from dockermesh.runtime.threads import done_in_thread

# Seconds between two catalogs: a deployment changes many services in a row.
_MIN_INTERVAL = 0.02
# Seconds between two copies: what changed since the last one is not there after a crash.
_SAVE_INTERVAL = 1.0
# Seconds between two looks whether a Consul that is slow is away.
_LOOK = 0.5
# Connections for all that is no service: names, workloads, config, CA, tokens, writes.
_RESERVE = 12
# So often in a row is no hiccup any more.
_REFUSALS = 3
_NAMES = "the list of services"
_WORKLOADS = "the workload records"
_KEPT = (
    "Workload records vanished from Consul; they are kept until registrars have written theirs"
    f" again, for up to {RECORDS_HOLD:.0f} s."
)
_log = structlog.get_logger(__name__)


class ConsulRegistry:
    """Consul as a source of catalogs.

    `budget` is how many services get a blocking query of their own; by default what Consul's limit
    of connections leaves. With more services than that, few connections are used. Where Consul is
    away at the start for longer than `grace`, what `copy` holds is published, and degraded. While
    it is away, what `unwritten` has counts, too.
    """

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        budget: int | None = None,
        copy: CatalogCopy | None = None,
        grace: Grace | None = None,
        unwritten: Unwritten | None = None,
    ) -> None:
        self._settings = settings
        self._copy = copy
        self._grace = grace or Grace()
        self._copied_at = ""
        self._copy_tried = False
        self._to_save = asyncio.Event()
        self._budget = budget
        self._outages = Outages(settings.address, self._touch)
        self._guard = DropGuard()
        self._assembly = Assembly(service_domain(settings.domain))
        self._unwritten = unwritten or Unwritten()
        self._unwritten.on_change = self._touch
        # What Consul said, and the names under which something unwritten is shown.
        self._said: dict[str, Instances] = {}
        self._laid_over: set[str] = set()
        self._records = WorkloadRecords()
        self._records_guard = RecordsGuard()
        self._workloads: Mapping[str, Workload] = {}
        self._services: Mapping[str, Service] = {}
        self._services_changed = True
        self._unanswered: set[str] = {_NAMES, _WORKLOADS}
        self._names: list[str] = []
        self._follower: Follower | None = None
        self._reported: dict[str, Any] = {}
        self._dirty = asyncio.Event()
        self._start: Start | None = None

    @property
    def problem(self) -> str:
        """Why the catalog is out of date, or not there yet; empty when all is well."""
        return self._outages.sentence

    @property
    def few_connections(self) -> bool:
        """Whether there are too many services for a blocking query each."""
        return isinstance(self._follower, FewConnections)

    async def run(self, publish: Publish) -> None:
        """Follow Consul until cancelled, handing each new catalog to `publish`."""
        client = ConsulClient(self._settings)
        if self._budget is None:
            self._budget = client.capacity - _RESERVE

        try:
            async with asyncio.TaskGroup() as tasks:
                self._start = Start(
                    client,
                    tasks,
                    self._outages,
                    self._take_entries,
                    self._take_reset,
                    self._service_failed,
                )
                tasks.create_task(self._follow_names(client).run())
                tasks.create_task(self._follow_workloads(client).run())
                tasks.create_task(self._publish_changes(publish))
                tasks.create_task(self._keep_saving())
        finally:
            if self._to_save.is_set() and self._copy is not None:
                self._copy.save(self._assembly.instances(), self._workloads)
            await client.close()

    def _follow_names(self, client: ConsulClient) -> Watch:
        async def fetch(index: int | None) -> Any:
            return await client.catalog.services(index=index, wait=ATTENTIVE)

        return Watch(
            _NAMES,
            fetch,
            self._take_names,
            self._outages,
            overdue=OVERDUE_S,
            on_reset=self._take_reset,
        )

    def _follow_workloads(self, client: ConsulClient) -> Watch:
        async def fetch(index: int | None) -> Any:
            return await client.kv.get(
                KEY_WORKLOADS, index=index, wait=client.wait, recurse=True
            )

        return Watch(
            _WORKLOADS,
            fetch,
            self._take_workloads,
            self._outages,
            on_reset=self._take_reset,
            on_failure=lambda n, _: self._give_up(_WORKLOADS, n),
        )

    def _take_names(self, answer: Mapping[str, Any] | None) -> None:
        names, skipped = accepted_names(answer or {})
        for name, reason in skipped.items():
            self._report(f"service {quoted(name)}", reason)

        # Consul always lists its own servers; no name at all is a loss, not an empty mesh.
        self._outages.note(
            "names", "" if answer else _nothing_listed(self._settings.address)
        )
        known = set(self._names)
        self._names = names
        if _NAMES in self._unanswered:
            self._unanswered.discard(_NAMES)
            self._unanswered.update(names)

        # A name that left will never be answered, and must not be waited for.
        gone = known - set(names)
        self._unanswered -= gone
        self._choose_follower().update(names)
        for name in sorted(gone):
            self._offer(name, ())
        self._touch()

    def _choose_follower(self) -> Follower:
        assert self._start is not None and self._budget is not None
        # Beyond it Consul resets connections without a word, of whichever query is last.
        few = len(self._names) > self._budget
        if isinstance(self._follower, FewConnections) and not few:
            few = len(self._names) > 0.8 * self._budget  # Not to and fro at the border.
        if self._follower is not None and few == self.few_connections:
            return self._follower
        if self._follower is not None:
            self._follower.stop()

        if few:
            _log.info(
                "more services than connections to Consul, using few",
                services=len(self._names),
                budget=self._budget,
            )

        self._follower = FewConnections(self._start) if few else PerService(self._start)
        return self._follower

    def _take_entries(self, name: str, entries: Any) -> None:
        converted = convert_entries(
            entries, allow_loopback=self._settings.allow_loopback
        )
        self._report(f"service {quoted(name)}", converted.skipped)
        self._answered(name)
        self._offer(name, converted.instances)

    def _take_workloads(self, items: Any) -> None:
        found, skipped = self._records.update(items)
        for key, reason in skipped.items():
            self._report(f"workload record {quoted(key)}", reason)
        has_mark = are_kept(items)
        self._records_guard.take(found, time.monotonic(), are_kept=has_mark)
        self._guard.believes_none = has_mark
        self._answered(_WORKLOADS)
        self._settle()
        self._touch()

    def _take_reset(self) -> None:
        now = time.monotonic()
        self._guard.registry_reset(now)
        self._records_guard.registry_reset(now)

    def _service_failed(self, name: str, failures: int, error: BaseException) -> None:
        self._give_up(name, failures)
        if (
            refused_by_limit(failures, error)
            and not self._outages.is_failing(_NAMES)
            and not self.few_connections
        ):
            # What Consul lets through is found out by trying: its limit is told nowhere.
            healthy = sum(
                not self._outages.is_failing(f"service {n}") for n in self._names
            )
            self._budget = int(healthy * 0.8)
            _log.warning(
                "Consul refuses connections beyond its limit per client",
                watches=healthy,
                budget=self._budget,
            )
            self._choose_follower().update(self._names)

    def _give_up(self, key: str, failures: int) -> None:
        """Do not let one thing that Consul refuses for good keep everything else from being
        published.
        """
        if failures >= _REFUSALS and not self._outages.is_failing(_NAMES):
            self._answered(key)

    def _answered(self, key: str) -> None:
        if key in self._unanswered:
            self._unanswered.discard(key)
            self._touch()

    def _offer(self, name: str, instances: Instances) -> None:
        self._announce(
            self._guard.offer(name, instances, self._workloads, time.monotonic())
        )

    def _settle(self) -> None:
        now = time.monotonic()
        is_changed = self._unwritten.show(is_away=self._is_away)
        self._workloads = self._unwritten.over_workloads(
            self._records_guard.workloads(now)
        )
        if is_changed:
            self._lay_over()
        self._outages.note("records", _KEPT if self._records_guard.holding else "")
        self._announce(self._guard.settle(self._workloads, now))

    def _announce(self, accepted: list[tuple[str, Instances]]) -> None:
        for name, instances in accepted:
            self._said[name] = instances
            self._put(name)
            if not instances:
                del self._said[name]
        sentence = (
            "More than half of all endpoints vanished from Consul at once; they are kept for up to"
            f" {HOLD:.0f} s."
        )
        self._outages.note("guard", sentence if self._guard.holding else "")

    @property
    def _is_away(self) -> bool:
        """Whether Consul says nothing at the moment."""
        return bool(self._copied_at) or self._outages.is_silent(_NAMES)

    def _lay_over(self) -> None:
        """Put what is unwritten over what Consul said, or take it away again."""
        names = self._unwritten.services()
        for name in sorted(self._said.keys() | names | self._laid_over):
            self._put(name)
        self._laid_over = names

    def _put(self, name: str) -> None:
        shown = self._unwritten.over_instances(
            name,
            self._said.get(name, ()),
            allow_loopback=self._settings.allow_loopback,
        )
        if self._assembly.put(name, shown):
            self._services_changed = True
            self._touch()

    def _touch(self) -> None:
        self._dirty.set()

    def _report(self, about: str, reasons: Any) -> None:
        if reasons and self._reported.get(about) != reasons:
            _log.warning("left out of the mesh", what=about, reason=reasons)
        if reasons:
            self._reported[about] = reasons
        else:
            self._reported.pop(about, None)

    async def _publish_changes(self, publish: Publish) -> None:
        published: Catalog | None = None
        while True:
            await self._wait_for_change()
            self._settle()
            # A part of the catalog would take away what the proxies have of the rest; the copy has
            # that.
            if self._unanswered and not self._copied_at and not self._use_copy():
                continue
            if not self._unanswered:
                self._copied_at = ""

            catalog = self._snapshot()
            if published is None or not _same(catalog, published):
                published = catalog
                try:
                    publish(catalog)
                except Exception:  # the reader's fault must not end the bridge
                    _log.exception("a catalog could not be taken over")
                if not self._unanswered:
                    self._to_save.set()
                await asyncio.sleep(_MIN_INTERVAL)

    def _use_copy(self) -> bool:
        """Begin with what was known last, if Consul has been away for the whole grace."""
        if not self._may_use_copy or self._grace.left or not self._outages.sentence:
            return False
        assert self._copy is not None
        copied, self._copy_tried = self._copy.load(), True
        if copied is None:
            return False

        _log.warning("Consul is away; serving from the copy", of=copied.at)
        self._copied_at = copied.at
        self._names = sorted(copied.instances)
        # As if Consul had said so: what it does not say when it is back is a loss, and guarded.
        self._records_guard.take(copied.workloads, time.monotonic())
        self._settle()
        for name, instances in copied.instances.items():
            self._offer(name, instances)
        return True

    async def _keep_saving(self) -> None:
        """Keep the copy on the disk up to date."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            if self._copy is None:
                return
            known = self._assembly.instances(), self._workloads
            await done_in_thread(partial(self._copy.save, *known))
            self._outages.note("copy", self._copy.problem)
            if self._copy.problem:
                # A disk that has room again tells nobody.
                self._to_save.set()
            await asyncio.sleep(_SAVE_INTERVAL)

    async def _wait_for_change(self) -> None:
        dues = (
            self._guard.next_due(),
            self._records_guard.next_due(),
            self._end_of_grace(),
        )
        due = min((due for due in dues if due is not None), default=None)
        try:
            async with asyncio.timeout(
                None if due is None else max(0.0, due - time.monotonic())
            ):
                await self._dirty.wait()
        except TimeoutError:
            return
        self._dirty.clear()

    @property
    def _may_use_copy(self) -> bool:
        """Whether Consul has told nothing yet, and a copy of it was not looked at."""
        is_silent = {_NAMES, _WORKLOADS} <= self._unanswered
        return self._copy is not None and not self._copy_tried and is_silent

    def _end_of_grace(self) -> float | None:
        # Afterwards again and again: only the first watch that fails wakes us.
        left = max(self._grace.left, _LOOK)
        return time.monotonic() + left if self._may_use_copy else None

    def _snapshot(self) -> Catalog:
        if self._services_changed:
            self._services = self._assembly.services()
            self._services_changed = False
        copied = (
            f" This control plane started meanwhile and serves its copy of {self._copied_at}."
            if self._copied_at
            else ""
        )
        degraded = f"{self._outages.sentence}{copied}".strip()
        return Catalog(self._services, self._workloads, degraded)


def _same(one: Catalog, other: Catalog) -> bool:
    # Each answer has all records, so equal mappings need not be the same object.
    same_workloads = (
        one.workloads is other.workloads or one.workloads == other.workloads
    )
    return (
        one.services is other.services
        and same_workloads
        and one.degraded == other.degraded
    )


def _nothing_listed(address: str) -> str:
    return (
        f"Consul at {address} lists no services, not even its own: it lost its data, or the token"
        ' of CONSUL_HTTP_TOKEN may not read them (service_prefix "" and node_prefix "" read).'
    )
