"""Rules of load balancing by locality and by zone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dockermesh.config.api.common import LocalityFailover, LocalityLoadBalancerSetting
from dockermesh.config.api.destination_rule import ZoneAwareLbSetting
from dockermesh.config.findings import Cursor
from dockermesh.config.rules.scope import report

_TOPOLOGY = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


def check_locality(
    setting: LocalityLoadBalancerSetting | None, at: Cursor, *, has_outlier: bool
) -> None:
    """Weights, or failover, between localities."""
    if setting is None:
        return
    if setting.distribute and setting.failover:
        at.error("only one of distribute and failover may be set")
        return

    if setting.failover:
        # Both say which locality comes next.
        for index, label in enumerate(setting.failover_priority):
            if label in _TOPOLOGY:
                (at / "failoverPriority" / index).error(
                    f"{label} cannot be combined with failover"
                )

    for index, rule in enumerate(setting.distribute):
        _check_weights(rule.to, at / "distribute" / index / "to")
    report(
        at / "distribute", _check_localities(rule.source for rule in setting.distribute)
    )
    _check_outlier(setting, at, has_outlier=has_outlier)
    _check_failover(setting.failover, at / "failover")


def _check_weights(weights: Mapping[str, int], at: Cursor) -> None:
    for locality, weight in weights.items():
        if not 1 <= weight <= 100:
            (at / locality).error(
                f"locality weight must be in the range 1..100, not {weight}"
            )
    if sum(weights.values()) != 100:
        at.error(f"the weights add up to {sum(weights.values())}, not to 100")
    report(at, _check_localities(weights))


def _check_outlier(
    setting: LocalityLoadBalancerSetting | ZoneAwareLbSetting,
    at: Cursor,
    *,
    has_outlier: bool,
) -> None:
    # Envoy leaves a locality only when it knows by outlier detection that endpoints fail.
    if (setting.failover or setting.failover_priority) and not has_outlier:
        at.warn("has no effect without outlierDetection")


def check_zone_aware(
    setting: ZoneAwareLbSetting | None, at: Cursor, *, has_outlier: bool
) -> None:
    """Zone-aware routing within a region."""
    if setting is None:
        return
    for index, label in enumerate(setting.failover_priority):
        if label.partition("=")[0] in _TOPOLOGY:
            (at / "failoverPriority" / index).error(
                f"{label} must not be given: regions and zones are always considered"
            )
    _check_outlier(setting, at, has_outlier=has_outlier)
    _check_failover(setting.failover, at / "failover")


def _check_failover(failover: tuple[LocalityFailover, ...], at: Cursor) -> None:
    for index, rule in enumerate(failover):
        # It would fail over to where it just failed.
        if rule.source == rule.to:
            (at / index).error("from and to must be different regions")
        for field, region in (("from", rule.source), ("to", rule.to)):
            if "/" in region:
                (at / index / field).error(f"{region!r} must be a region only")
            if "*" in region:
                (at / index / field).error(f"{region!r} must not contain a wildcard")


def _check_localities(localities: Iterable[str]) -> str:
    """Localities must be well formed, and no two may overlap."""
    seen: set[tuple[str, ...]] = set()
    within: set[tuple[str, ...]] = set()
    for locality in localities:
        if "*" in locality and (locality.count("*") > 1 or not locality.endswith("*")):
            return f"locality {locality!r}: a wildcard must be the end"
        parts = tuple(locality.split("/", 2))
        if not all(parts):
            return f"locality {locality!r} must not have empty parts"
        if parts[-1] == "*":
            parts = parts[:-1]
        wider = {parts[:length] for length in range(len(parts) + 1)}
        if parts in within or wider & seen:
            return f"locality {locality!r} overlaps with an earlier one"

        seen.add(parts)
        within |= wider

    return ""
