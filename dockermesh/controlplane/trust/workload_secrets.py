"""The certificate that every attested proxy gets over its ADS stream, and the roots it verifies
others with.

A proxy is given the secrets `default` (its own leaf and key) and `ROOTCA`, laid over what the
translator made for it. A leaf is signed when its proxy first needs it, kept in memory only, and
replaced at half of its life. A control plane that was restarted makes the same one again (see
`ca.certificates`).

Invariants: a proxy's snapshot holds no other proxy's leaf. While nothing was renewed, the same
snapshot in gives the same snapshot out, so that a publish costs nothing for proxies that it does
not concern. A leaf that cannot be renewed is kept: it goes on being good until it expires.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Collection, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from dockermesh.ca import Authority, AuthorityError, Leaf, sealed_key
from dockermesh.model import Identity
from dockermesh.translate.sidecar.outbound import named
from dockermesh.translate.tls.secrets import issued_certificate, trusted_roots
from dockermesh.xds import SECRET, Resource, ResourceSet, Snapshot

log = structlog.get_logger(__name__)

_LONGEST_SLEEP_S = 30.0
"""The clock may be set, or the machine sleep: nobody is told, so it is looked at this often."""
_AT_ONCE, _BREATH_S = 20, 0.05
"""So many leaves are signed (each in well below a millisecond) and sent before other work gets its
turn.
"""
_JUMP_S = 30.0
"""By how much the time of day may run away from the time that passes before it counts as set."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whose a leaf is, and what it says. `holder` is who has the key: one run of a pod; `seal` the
    password with which its proxy may keep it; `facts` what peers may say of it in their metrics.
    """

    identity: Identity
    holder: str = ""
    seal: str = ""
    facts: str = ""


@dataclass(slots=True)
class _Held:
    """A proxy's leaf, and the snapshot last made with it."""

    to: Recipient
    leaf: Leaf
    resource: Resource
    under: Snapshot | None = None
    made: Snapshot | None = None
    _secrets: ResourceSet | None = None
    _from: tuple[object, ...] = ()

    def layered(self, under: Snapshot, roots: Resource) -> Snapshot:
        """The snapshot with the leaf and these roots; the same object, and the same set, for the
        same parts.
        """
        if self._secrets is None or self._from != (roots, under.secrets):
            self._secrets = ResourceSet([self.resource, roots], base=under.secrets)
            self._from, self.made = (roots, under.secrets), None
        if self.made is None or self.under is not under:
            self.under, self.made = under, under.with_secrets(self._secrets)
        return self.made


class WorkloadSecrets:
    """Leaves by proxy."""

    def __init__(self, authority: Authority, lifetime: datetime.timedelta) -> None:
        self._authority = authority
        self._lifetime = lifetime
        self._held: dict[str, _Held] = {}
        self._nodes: dict[str, str] = {}
        self._told = authority.roots_pem
        self._roots = named(SECRET, trusted_roots(self._told))
        self._wake = asyncio.Event()
        # Wall clock against a clock that nobody sets: their distance jumps when it is set.
        self._clocks = _now().timestamp() - time.monotonic()
        authority.on_change.append(self._wake.set)
        self.issued = 0
        self.failures = 0
        self.clock_jumps = 0
        self.problem = ""

    def layered(self, key: str, to: Recipient, under: Snapshot) -> Snapshot:
        """What the proxy `key` is to have: `under` with its own certificate and the roots.

        Another holder gets another private key. With a seal, the key comes a second time, in the
        form in which the proxy may keep it.
        """
        held = self._current(key, to)
        # The same snapshot as before, unless something of it is new.
        return held.layered(under, self._roots) if held is not None else under

    def leaf_at(self, node: str, key: str, to: Recipient) -> Leaf | None:
        """The leaf of a workload that the proxy `node` serves; None if none can be made."""
        self._nodes[key] = node
        held = self._current(key, to)
        return held.leaf if held is not None else None

    @property
    def roots(self) -> Resource:
        """The roots, as a secret."""
        return self._roots

    def _current(self, key: str, to: Recipient) -> _Held | None:
        held = self._held.get(key)
        if held is None or held.to != to or not held.leaf.is_fresh(_now()):
            return self._renew(key, to, held)
        return held

    def are_roots_told(self) -> bool:
        """Whether what is published are the roots of the material in force."""
        return self._told == self._authority.roots_pem

    def leaves(self) -> Mapping[str, Leaf]:
        """All leaves by proxy."""
        return {key: held.leaf for key, held in self._held.items()}

    def retain(self, keys: Container[str]) -> None:
        """Forget the leaves of all other proxies."""
        self._held = {key: held for key, held in self._held.items() if key in keys}
        self._nodes = {key: node for key, node in self._nodes.items() if key in keys}

    async def run(
        self,
        connected: Callable[[], Collection[str]],
        publish: Callable[[Collection[str]], None],
    ) -> None:
        """Replace leaves when it is time, and publish to the proxies that got a new one, for ever.

        Leaves of proxies that are not connected are left alone: they are renewed when their proxy
        comes back.
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause(connected()))

            self._wake.clear()
            self._watch_clock()
            self._take_roots(connected(), publish)
            present, now = connected(), _now()
            due = [
                k
                for k, h in self._held.items()
                if self._proxy_of(k) in present
                and not self._authority.is_current(h.leaf, now)
            ]

            # In portions: signing is what takes long, and streams must go on meanwhile.
            for start in range(0, len(due), _AT_ONCE):
                replaced = [
                    key for key in due[start : start + _AT_ONCE] if self._replaced(key)
                ]
                publish(list(dict.fromkeys(map(self._proxy_of, replaced))))
                await asyncio.sleep(_BREATH_S)

    def _take_roots(
        self, present: Collection[str], publish: Callable[[Collection[str]], None]
    ) -> None:
        told = self._authority.roots_pem
        roots = named(SECRET, trusted_roots(told))
        # All at once: a proxy that lacks a root refuses the others.
        if roots.version != self._roots.version:
            self._roots = roots
            publish(tuple(present))
        self._told = told

    def _proxy_of(self, key: str) -> str:
        """The proxy that has the leaf: the workload's own, or that of its node."""
        return self._nodes.get(key, key)

    def _replaced(self, key: str) -> bool:
        held = self._held.get(key)
        return held is not None and self._renew(key, held.to, held) is not held

    def _pause(self, present: Container[str]) -> float:
        """How long to sleep, in seconds: until the next leaf is due, but never long, and never not
        at all.
        """
        now = _now()
        due = min(
            (
                h.leaf.renew_at
                for k, h in self._held.items()
                if self._proxy_of(k) in present
            ),
            default=now + self._lifetime,
        )
        # A clock that was set must be noticed within a twentieth of a leaf's life.
        longest = min(_LONGEST_SLEEP_S, self._lifetime.total_seconds() / 20)
        return max(min((due - now).total_seconds(), longest), longest / 20)

    def _watch_clock(self) -> None:
        """Notice that the clock was set: certificates are about the time of day, and peers may
        think otherwise.
        """
        clocks = _now().timestamp() - time.monotonic()
        if abs(clocks - self._clocks) > _JUMP_S:
            self.clock_jumps += 1
            log.warning("the clock was set", by_seconds=round(clocks - self._clocks))
        self._clocks = clocks

    def _renew(self, key: str, to: Recipient, before: _Held | None) -> _Held | None:
        """A new leaf; the one before if none can be made for the same identity."""
        try:
            leaf = self._authority.issue_workload(
                to.identity,
                self._lifetime,
                holder=f"{key} {to.holder}",
                facts=to.facts,
                now=_now(),
            )
        except AuthorityError as error:
            self.failures += 1
            if self.problem != error.what:
                log.error(
                    "no certificates can be issued",
                    proxy=key,
                    identity=str(to.identity),
                    reason=error.what,
                )
            self.problem = error.what
            # Still good, and better than none; one of another identity is not.
            is_same = before is not None and before.to.identity == to.identity
            return before if is_same else None

        self.issued += 1
        self.problem = ""
        sealed = sealed_key(leaf.key, to.seal) if to.seal else b""
        secret = issued_certificate(leaf.certificate + sealed, leaf.key)
        resource = named(SECRET, secret)
        made = self._held[key] = _Held(to, leaf, resource)
        log.info(
            "certificate issued",
            proxy=key,
            identity=str(to.identity),
            until=leaf.not_after.isoformat(),
        )

        return made


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
