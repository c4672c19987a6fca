"""Which localities get a proxy's traffic: by weights, or in an order of failover.

Source: Istio's "Locality Load Balancing" and `pilot/pkg/networking/core/loadbalancer`. A locality
is `region/zone/sub-zone`; parts may be missing on the right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dockermesh.config.api.common import LocalityDistribute, LocalityLoadBalancerSetting
from dockermesh.model import Endpoint


@dataclass(frozen=True, slots=True)
class LocalityPlan:
    """Endpoints of one locality with their priority (0 first); weight 0 means: by the endpoints'
    own weights.
    """

    locality: str
    members: tuple[Endpoint, ...]
    priority: int = 0
    weight: int = 0


def plan_localities(
    endpoints: Iterable[Endpoint],
    locality: str,
    labels: Mapping[str, str],
    setting: LocalityLoadBalancerSetting | None,
) -> list[LocalityPlan]:
    """The groups, in an order that depends on nothing but their content."""
    groups: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault(endpoint.locality, []).append(endpoint)
    plain = [LocalityPlan(name, tuple(groups[name])) for name in sorted(groups)]
    if setting is None:
        return plain

    # One of the three ways holds: where weights are given, failover is not looked at, also for
    # proxies that no entry of them covers.
    if setting.distribute:
        rule = _distribution(setting.distribute, locality)
        return plain if rule is None else _distributed(plain, rule)
    if setting.failover_priority:
        return _by_labels(plain, labels, setting.failover_priority, locality)
    # Who does not know where it is has nothing nearer than anything else.
    if not locality:
        return plain

    return _by_distance(plain, locality, {f.source: f.to for f in setting.failover})


def _distribution(
    distribute: Iterable[LocalityDistribute], locality: str
) -> LocalityDistribute | None:
    """The entry for proxies of this locality."""
    if not locality:
        return None
    return next((d for d in distribute if covers(d.source, locality)), None)


def covers(pattern: str, locality: str) -> bool:
    """Whether `us-west/zone1/*` or `us-west` covers the locality."""
    wanted, has = pattern.split("/"), locality.split("/")
    for index, part in enumerate(wanted):
        if part == "*":
            return True
        if index >= len(has) or has[index] != part:
            return False
    return True


def _distributed(
    groups: list[LocalityPlan], rule: LocalityDistribute
) -> list[LocalityPlan]:
    """Each target's share goes to the localities that it covers; all others get nothing."""
    planned: list[LocalityPlan] = []
    taken: set[str] = set()

    # The longest first: `us-west/zone1` is not to lose its endpoints to `us-west`.
    for target, share in sorted(rule.to.items(), key=lambda item: -len(item[0])):
        covered = [
            g for g in groups if g.locality not in taken and covers(target, g.locality)
        ]
        # A share is for all localities that it covers: they part it by their endpoints' weights.
        total = sum(e.weight for g in covered for e in g.members) or 1

        for group in covered:
            taken.add(group.locality)
            part = sum(e.weight for e in group.members) / total
            planned.append(
                LocalityPlan(
                    group.locality, group.members, weight=max(1, round(share * part))
                )
            )

    return sorted(planned, key=lambda g: g.locality)


def _by_distance(
    groups: list[LocalityPlan], own: str, failover: Mapping[str, str]
) -> list[LocalityPlan]:
    region = own.split("/", maxsplit=1)[0]

    def distance(group: LocalityPlan) -> int:
        theirs, mine = (*group.locality.split("/"), "", ""), (*own.split("/"), "", "")
        same = next((n for n in range(3) if theirs[n] != mine[n]), 3)
        if same or region not in failover:
            return 3 - same
        # Of other regions the one that the rule names comes before the rest.
        return 3 if theirs[0] == failover[region] else 4

    return _compact(groups, [distance(group) for group in groups])


def _by_labels(
    groups: list[LocalityPlan],
    own: Mapping[str, str],
    order: tuple[str, ...],
    locality: str,
) -> list[LocalityPlan]:
    """Endpoints that agree with the proxy on more of the labels, from the first on, come first."""
    parts = (
        dict(zip(_LOCALITY_LABELS, (*locality.split("/"), "", ""), strict=False))
        if locality
        else {}
    )
    mine = {**parts, **own}
    split: dict[tuple[int, str], list[Endpoint]] = {}

    for group in groups:
        for endpoint in group.members:
            theirs = dict(
                zip(
                    _LOCALITY_LABELS, (*group.locality.split("/"), "", ""), strict=False
                )
            )
            missed = _first_difference(order, mine, {**theirs, **endpoint.labels})
            split.setdefault((missed, group.locality), []).append(endpoint)

    made = [
        LocalityPlan(name, tuple(members))
        for (_, name), members in sorted(split.items())
    ]
    return _compact(made, [rank for rank, _ in sorted(split)])


_LOCALITY_LABELS = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


def _first_difference(
    order: tuple[str, ...], mine: Mapping[str, str], theirs: Mapping[str, str]
) -> int:
    for index, entry in enumerate(order):
        name, has_value, value = entry.partition("=")
        # `key=value` names the value; `key` alone asks for the proxy's own.
        wanted = value if has_value else mine.get(name, "")
        if theirs.get(name, "") != wanted:
            return len(order) - index
    return 0


def _compact(groups: list[LocalityPlan], ranks: list[int]) -> list[LocalityPlan]:
    """Priorities without gaps, as Envoy wants them."""
    order = {rank: index for index, rank in enumerate(sorted(set(ranks)))}
    return [
        LocalityPlan(group.locality, group.members, priority=order[rank])
        for group, rank in zip(groups, ranks, strict=True)
    ]
