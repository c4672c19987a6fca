"""Attestation: the digest of a pod's token, read from the log that only Docker can vouch for.

Invariants: a line counts only if it names the workload of the pod's label, so that a pod cannot
speak for another; a digest is that of one run of the pod, and forgotten with it. Nothing is said of
a running pod before its log was read once: a registrar that starts would take back what it knew.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from dockermesh.errors import EngineError
from dockermesh.registrar.container import Container, parse_time
from dockermesh.registrar.mapping import MappingFinding
from dockermesh.registrar.seen import Notes, Seen
from dockermesh.runtime.backoff import Backoff

_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNREADABLE_S = 1.0

ReadLog = Callable[[str, int], Awaitable[str]]
"""The log of a container (its id) since a moment (nanoseconds since the epoch)."""


class Attestor:
    """Looks for the tokens of running pods; `learned` is told the group of whose pod more is known
    now: that it has one, or has none yet.
    """

    def __init__(
        self,
        read_log: ReadLog,
        seen: Seen,
        notes: Notes,
        learned: Callable[[str], None],
    ) -> None:
        self._read_log = read_log
        self._seen = seen
        self._notes = notes
        self._learned = learned
        self._has_none_yet: set[str] = set()
        self._tokens: dict[str, str] = {}
        self._times: dict[str, int] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    @property
    def tokens(self) -> Mapping[str, str]:
        """Digests by the incarnation of the pod."""
        return MappingProxyType(self._tokens)

    @property
    def times(self) -> Mapping[str, int]:
        """When they were attested (nanoseconds since the epoch, by the engine's clock), by the
        incarnation of the pod.
        """
        return MappingProxyType(self._times)

    def look(self, members: Iterable[Container]) -> None:
        """Look for the tokens of these, and forget those of their runs before."""
        members = list(members)
        self._drop_old(members)
        for pod in members:
            if pod.role == "pod" and pod.state.running and not self._has(pod):
                task = asyncio.create_task(self._find(pod), name=f"attest {pod.name}")
                self._looking[pod.incarnation] = task
                task.add_done_callback(partial(self._done, pod.incarnation))

    def knows(self, members: Iterable[Container]) -> bool:
        """Whether the log of every running pod of these was read, or could not be."""
        return all(
            pod.incarnation in self._tokens or pod.incarnation in self._has_none_yet
            for pod in members
            if pod.role == "pod" and pod.state.running
        )

    def forget(self, container: Container) -> None:
        """The container is gone."""
        self._drop(container.incarnation)

    def close(self) -> None:
        """Stop looking."""
        for task in self._looking.values():
            task.cancel()

    def _has(self, pod: Container) -> bool:
        return pod.incarnation in self._tokens or pod.incarnation in self._looking

    def _drop_old(self, members: list[Container]) -> None:
        ids = {c.id for c in members}
        current = {c.incarnation for c in members}
        for known in (*self._tokens, *self._has_none_yet):
            if known.partition("@")[0] in ids and known not in current:
                self._drop(known)

    def _drop(self, incarnation: str) -> None:
        self._tokens.pop(incarnation, None)
        self._times.pop(incarnation, None)
        self._has_none_yet.discard(incarnation)

    def _done(self, incarnation: str, _: asyncio.Task[None]) -> None:
        self._looking.pop(incarnation, None)

    async def _find(self, pod: Container) -> None:
        # Read again and again rather than followed: a pod says it within milliseconds, and a stream
        # holds a thread.
        backoff = Backoff(0.01, 2.0, factor=1.4, jitter=0.0)
        while self._seen.is_current(pod):
            wait = backoff.next()
            try:
                # Since the end of the run before: Docker notes the start only after the process may
                # have written.
                log = await self._read_log(pod.id, pod.state.finished)
                token, at = find_token(log, pod.group)
            except EngineError as error:
                self._notes.say(
                    MappingFinding(pod.name, f"its log cannot be read: {error.what}")
                )
                token, at, wait = "", 0, max(wait, _UNREADABLE_S)

            if token:
                self._tokens[pod.incarnation] = token
                self._times[pod.incarnation] = at
                self._has_none_yet.discard(pod.incarnation)
                self._learned(pod.group)
                return

            if pod.incarnation not in self._has_none_yet:
                self._has_none_yet.add(pod.incarnation)
                self._learned(pod.group)
            await asyncio.sleep(wait)


def find_token(log: str, workload: str) -> tuple[str, int]:
    """The digest in the last line of `log` that attests `workload`, and when that was written;
    empty and 0 when there is none. Lines begin with Docker's time.
    """
    for line in reversed(log.splitlines()):
        at, _, said = line.partition(" ")
        if '"attest"' in said and (digest := _digest_in(said, workload)):
            return digest, parse_time(at)
    return "", 0


def _digest_in(line: str, workload: str) -> str:
    try:
        said = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(said, dict) or said.get("dockermesh") != "attest":
        return ""

    digest = said.get("token_sha256")
    is_its = said.get("workload") == workload
    is_digest = isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None
    return str(digest) if is_its and is_digest else ""
