"""Which containers must be started, restarted or stopped so that app and proxy are in their pod,
and end with it.

Docker joins a network namespace once, at start: when a pod is restarted, its members stay in the
old one, and when the engine comes up it may refuse to join a pod that is not up yet. So the engine
never starts a proxy by itself: whenever one has to run, it is started here. A proxy outlives its
stop signal, so that requests in hand are finished; it is ended here once nobody is left whom it
could serve. Invariant: the plan depends on the present state, and what `Past` says of it; it names
only containers that the mesh labelled, and starts nothing that the user stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from dockermesh.model import WorkloadKind
from dockermesh.model.contract import LABEL_KIND
from dockermesh.registrar.container import Container
from dockermesh.registrar.desired import is_stranded

# Ended with the pod (by the engine, at shutdown) rather than by the user's hand: within this time
# of it.
TOGETHER = 20 * 1_000_000_000
# Whoever stops it by hand is heard of within this time of its end, in seconds.
_HEARD = 0.3
_ENDED = ("exited", "dead")
_JOINERS = frozenset({"proxy", "app", "follower"})
_ORDER = {"pod": 0, "proxy": 1}
_GRACE = 3
_DRAIN = 2.0  # for what a proxy has in hand when it leaves its app behind
_JOIN_FAILED = (
    "joining network",
    "join network",
    "network namespace",
    "namespace path",
    "/ns/net",
)


class Verb(StrEnum):
    """What is done to a container."""

    START = "start"
    RESTART = "restart"
    STOP = "stop"
    """It has to go: what is to be finished is finished meanwhile."""
    REPORT = "report"
    """Nothing can be done by us: Compose has to create it anew."""


@dataclass(frozen=True, slots=True)
class Action:
    """One step, with the reason that is logged."""

    verb: Verb
    container: Container
    reason: str
    delay: float = 0.0
    """Seconds until it is due, if it still is then."""

    @property
    def grace(self) -> int:
        """Seconds until Docker kills it: an app may finish, a proxy has nobody left to serve."""
        return 0 if self.container.role == "proxy" else _GRACE


@dataclass(frozen=True, slots=True)
class Past:
    """What the present state of containers does not show; containers by their ids.

    `stopping` got their stop signal: an app stops together with its pod, a proxy after its app, if
    that stops too. `by_hand` ended because somebody else than the registrar told them to.
    `by_us` ended because the registrar told them to, and nobody else.
    `engine_started` is when the engine came up (nanoseconds since the epoch; 0: not known).
    `attested` says when a run of a pod attested its token: by then it has removed the bootstrap of
    its run before.
    """

    stopping: Collection[str] = ()
    by_hand: Collection[str] = ()
    by_us: Collection[str] = ()
    engine_started: int = 0
    attested: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


NOTHING = Past()


def plan_healing(containers: Iterable[Container], past: Past = NOTHING) -> list[Action]:
    """The steps that can be taken now: pods, then proxies; apps follow once their pod is
    healthy.
    """
    group = _Group({c.id: c for c in containers}, past)
    members = sorted(
        group.by_id.values(), key=lambda c: (_ORDER.get(c.role, 2), c.name)
    )
    found = [group.step_for(member) for member in members]
    return [action for action in found if action is not None]


@dataclass(frozen=True, slots=True)
class _Group:
    """The containers of a workload."""

    by_id: Mapping[str, Container]
    past: Past

    def step_for(self, member: Container) -> Action | None:
        """What a container of the mesh needs."""
        if member.role == "pod":
            return self._pod(member)
        if member.role in _JOINERS and member.joined:
            return self._member(member)
        return None

    def _pod(self, pod: Container) -> Action | None:
        """An engine that was killed takes what it finds at its next start for stopped by hand."""
        started, finished = self.past.engine_started, pod.state.finished
        if pod.state.status not in _ENDED or pod.id in self.past.by_hand:
            return None
        if not started or not finished or abs(finished - started) > TOGETHER:
            return None
        return Action(Verb.START, pod, "it ended with the engine, which runs again")

    def _member(self, member: Container) -> Action | None:
        pod = self.by_id.get(member.joined)
        is_ending = member.id in self.past.stopping and _is_up(member)
        if member.role == "proxy" and is_ending:
            return self._ending(member, pod)
        if pod is None:
            return self._orphan(member)
        return self._with_pod(member, pod) if pod.role == "pod" else None

    def _orphan(self, member: Container) -> Action | None:
        others = (c for c in self.by_id.values() if c.group == member.group)
        if not any(c.role == "pod" and c.state.running for c in others):
            return None
        reason = (
            f"its pod {member.joined[:12]} was replaced; run `docker compose up -d` to create it"
            " anew"
        )
        return Action(Verb.REPORT, member, reason)

    def _with_pod(self, member: Container, pod: Container) -> Action | None:
        if self._has_to_stop(member, pod):
            return Action(Verb.STOP, member, "its pod is stopping")
        if not _is_up(pod):
            return None

        if member.role == "proxy":
            return self._proxy(member, pod)
        action = _needed(member, pod) or self._owed(member)
        if action is None:
            return None
        # Apps start only when requests can pass: the order that Compose keeps at `up`.
        if self._proxy_is_in(pod) and pod.state.health in ("", "healthy"):
            return action
        return (
            Action(Verb.STOP, member, action.reason)
            if action.verb is Verb.RESTART
            else None
        )

    def _owed(self, member: Container) -> Action | None:
        """What was ended here on a run that the user, or the engine, began meanwhile."""
        if member.state.status not in _ENDED or member.id not in self.past.by_us:
            return None
        return Action(Verb.START, member, "it was ended for a pod that runs again")

    def _proxy(self, proxy: Container, pod: Container) -> Action | None:
        attested = self.past.attested.get(pod.incarnation)
        # Before that the bootstrap of the pod's last run may still be there, whose token is
        # worthless by now: a proxy that read it is never let in.
        if attested is None or proxy.state.paused:
            return None

        action = _needed(proxy, pod)
        if action is not None:
            return action
        # At a pod's first run there is nothing of a run before.
        if _is_up(proxy) and pod.state.finished and proxy.state.started < attested:
            reason = "it may have read the token of its pod's last run"
            return Action(Verb.RESTART, proxy, reason)
        if proxy.state.status in _ENDED and proxy.id not in self.past.by_hand:
            return Action(Verb.START, proxy, "it ended by itself", delay=_HEARD)
        return None

    def _has_to_stop(self, member: Container, pod: Container) -> bool:
        # A proxy goes on: requests in hand are finished first.
        stopping = self.past.stopping
        if member.role == "proxy" or pod.id not in stopping:
            return False
        return _is_up(member) and member.id not in stopping

    def _proxy_is_in(self, pod: Container) -> bool:
        proxies = [c for c in self._joined(pod) if c.role == "proxy"]
        return not proxies or any(
            _is_up(p) and not is_stranded(p, pod) for p in proxies
        )

    def _ending(self, proxy: Container, pod: Container | None) -> Action | None:
        if pod is None or is_stranded(proxy, pod):
            return Action(
                Verb.STOP, proxy, "it was told to stop, and its network is gone"
            )
        if pod.labels.get(LABEL_KIND) == WorkloadKind.GATEWAY:
            return None  # it ends by itself, since nobody takes its place

        served = [c for c in self._joined(pod) if c.role != "proxy" and c.state.running]
        if not served:
            return Action(
                Verb.STOP, proxy, "it was told to stop, and its app has ended"
            )
        if any(c.id in self.past.stopping for c in served):
            return None
        # It alone is stopped or restarted: its app's requests go elsewhere by now, or wait for it.
        return Action(Verb.STOP, proxy, "it was told to stop", delay=_DRAIN)

    def _joined(self, pod: Container) -> list[Container]:
        return [c for c in self.by_id.values() if c.joined == pod.id]


def _needed(member: Container, pod: Container) -> Action | None:
    if member.state.paused:
        return None
    if is_stranded(member, pod):
        return Action(
            Verb.RESTART,
            member,
            "the pod was started after it, so it is in a network that is gone",
        )
    if member.state.status not in ("exited", "created", "dead"):
        return None
    if _could_not_join(member):
        return Action(
            Verb.START, member, f"it could not join the pod: {member.state.error[:120]}"
        )
    if member.state.finished and _ended_with(member, pod):
        return Action(Verb.START, member, "it ended with its pod, which runs again")
    return None


def _could_not_join(member: Container) -> bool:
    error = member.state.error.lower()
    return any(text in error for text in _JOIN_FAILED)


def _ended_with(member: Container, pod: Container) -> bool:
    # What ran in the pod's present network, and ended there, ended by itself or by the user's hand.
    if not pod.state.finished or member.state.started > pod.state.started:
        return False
    return abs(member.state.finished - pod.state.finished) <= TOGETHER


def _is_up(container: Container) -> bool:
    return (
        container.state.running
        and not container.state.paused
        and not container.state.restarting
    )
