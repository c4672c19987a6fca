"""What `ca status` says, and whether the next step of a root rotation is safe. Pure.

Invariant: nothing here holds a key.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dockermesh.ca import NEXT, Leaf, Material, Step
from dockermesh.controlplane.trust.rotation import Taken
from dockermesh.model.times import time_text
from dockermesh.model.workload import JOINED
from dockermesh.xds import SECRET, ProxyStatus, SyncState

SETTLE = datetime.timedelta(seconds=2)
"""How long a step rests before the next one: other control planes and proxies put it in force
within this time.
"""
ELSEWHERE = datetime.timedelta(seconds=15)
"""How long other control planes have to tell of their proxies before the signer is switched."""
_LATE = datetime.timedelta(days=30)
_LATE_PART = 0.2
"""A root is to be replaced in the last fifth of its life (as Istio's), or 30 days before its end
where that is less.
"""


def blockers(
    step: Step,
    material: Material,
    *,
    proxies: Iterable[ProxyStatus],
    leaves: Mapping[str, Leaf],
    running: Collection[str],
    lifetime: datetime.timedelta,
    now: datetime.datetime,
    elsewhere: Taken = Taken(),  # noqa: B008  # it is frozen
) -> list[str]:
    """Why this step would break connections now; empty when it is safe.

    `running` are the workloads that run; those whose proxy is not connected here count as well,
    unless other control planes have told that it has taken the step before (`elsewhere`).
    """
    if step is Step.PREPARE:
        return []

    connected = {status.proxy.key: status for status in proxies}
    away = sorted({*running} - connected.keys() - elsewhere.confirmed)
    late = [name for name in away if name in elsewhere.late]
    found = [*_too_early(material, connected, now)]
    if step is Step.SWITCH:
        if late:
            found.append(f"not yet accepted by {_some(late)}, at another control plane")
        found += _unseen(material.since + ELSEWHERE, away, now)
    if step is Step.FINISH:
        held = {key: leaf for key, leaf in leaves.items() if key in connected}
        found += [
            *_of_old_root(material, held, running),
            *_still_good(material.since + lifetime, away, now),
        ]
    return found


def taken_here(
    material: Material, proxies: Iterable[ProxyStatus], leaves: Mapping[str, Leaf]
) -> Taken:
    """Which proxies have taken the step at which the CA is: its roots, and a certificate of its
    signer.
    """
    connected = {status.proxy.key: _has_secrets(status) for status in proxies}
    confirmed = frozenset(
        key
        for key, has_roots in connected.items()
        if has_roots and (leaf := leaves.get(key)) and leaf.signer == material.signer.id
    )
    return Taken(confirmed, frozenset(connected) - confirmed)


def _too_early(
    material: Material, connected: Mapping[str, ProxyStatus], now: datetime.datetime
) -> Iterator[str]:
    if now - material.since < SETTLE:
        yield f"the step before was taken less than {SETTLE.total_seconds():.0f} s ago"

    # Who has not taken the roots would refuse what is signed with the new one.
    late = sorted(key for key, status in connected.items() if not _has_secrets(status))
    if late:
        yield f"not yet accepted by {_some(late)}"


def _of_old_root(
    material: Material, held: Mapping[str, Leaf], running: Collection[str]
) -> Iterator[str]:
    """Who would be cut off with the root that is to be forgotten."""
    old = sorted(key for key, leaf in held.items() if leaf.signer != material.signer.id)
    if old:
        yield f"certificates of the old root are still held by {_some(old)}"

    # Nobody tells them of new roots but their operator.
    outside = sorted(name for name in running if name.startswith(f"{JOINED}/"))
    if outside:
        yield (
            "outside Docker, where root.pem is replaced by hand (`ca export`), then --force:"
            f" {_some(outside)}"
        )


def _unseen(
    until: datetime.datetime, away: list[str], now: datetime.datetime
) -> Iterator[str]:
    """Who may be connected to another control plane, which has not told of it yet."""
    if away and now < until:
        yield (
            f"no control plane has told that the new root is trusted by {_some(away)}, which"
            f" are not connected to this one; waited for until {utc_text(until)}"
        )


def _still_good(
    until: datetime.datetime, away: list[str], now: datetime.datetime
) -> Iterator[str]:
    """Who may hold a certificate of the old root, as nobody has told otherwise."""
    # No certificate of before the step is good for longer than one lifetime.
    if away and now < until:
        yield (
            "not connected to this control plane, nor told of by another one, so perhaps with"
            f" certificates of the old root: {_some(away)}; the last of those expire at"
            f" {utc_text(until)}"
        )


def _has_secrets(status: ProxyStatus) -> bool:
    return all(
        t.state is SyncState.SYNCED for t in status.types if t.type_url == SECRET
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (
        f" and {len(names) - 5} more" if len(names) > 5 else ""
    )


def ca_report(
    material: Material,
    *,
    trust_domain: str,
    leaves: Mapping[str, Leaf],
    issued: int,
    failures: int,
    problems: Iterable[str],
    blocked: list[str],
    lifetime: datetime.timedelta,
    now: datetime.datetime,
) -> dict[str, Any]:
    """The state of the CA as JSON."""
    signer = material.signer.certificate

    return {
        "trust_domain": trust_domain,
        "managed": material.is_own,
        "phase": material.phase.value,
        "since": utc_text(material.since),
        "signer": _certificate(signer, is_signing=True),
        "roots": [
            _certificate(root, is_signing=_leads_to(material, root))
            for root in material.roots
        ],
        "leaves": {
            "lifetime_seconds": int(lifetime.total_seconds()),
            "held": len(leaves),
            "issued": issued,
            "failures": failures,
            "of_old_signer": sum(
                leaf.signer != material.signer.id for leaf in leaves.values()
            ),
            "next_renewal": utc_text(
                min((leaf.renew_at for leaf in leaves.values()), default=None)
            ),
            "next_expiry": utc_text(
                min((leaf.not_after for leaf in leaves.values()), default=None)
            ),
        },
        "next_step": NEXT[material.phase].value if material.is_own else "",
        "blocked": blocked,
        "warnings": ca_warnings(material, leaves, problems, now),
    }


def ca_warnings(
    material: Material,
    leaves: Mapping[str, Leaf],
    problems: Iterable[str],
    now: datetime.datetime,
) -> list[str]:
    """What is to be said about the CA and the renewal of certificates."""
    said = [problem for problem in problems if problem]
    return [*said, *expiry_warnings(material, now), *renewal_warnings(leaves, now)]


def expiry_warnings(material: Material, now: datetime.datetime) -> Iterator[str]:
    """What is to be said about the end of roots and signers."""
    mend = (
        "run `dockermesh ca rotate`"
        if material.is_own
        else "replace the files of your CA"
    )
    items = {
        "the root": material.roots[0],
        "the CA's certificate": material.signer.certificate,
    }

    for what, item in items.items():
        # Both bounds: a root of ten years and one of ten days.
        left, whole = (
            item.not_valid_after_utc - now,
            item.not_valid_after_utc - item.not_valid_before_utc,
        )
        if left <= datetime.timedelta():
            yield f"{what} has expired: no certificates can be issued; {mend}"
        elif left < min(whole * _LATE_PART, _LATE):
            yield f"{what} expires in {max(left.days, 0)} days; {mend}"
        elif item.not_valid_before_utc > now:
            yield f"{what} is not valid yet: is the clock right?"
        # A root that signs itself is both items: told once.
        if material.signer.certificate == material.roots[0]:
            return


def renewal_warnings(
    leaves: Mapping[str, Leaf], now: datetime.datetime
) -> Iterator[str]:
    """What is to be said about leaves that should have been replaced."""
    late = {key: leaf for key, leaf in leaves.items() if is_late(leaf, now)}
    if late:
        first = min(late, key=lambda key: late[key].not_after)
        end = utc_text(late[first].not_after)
        yield (
            f"{len(late)} certificates are overdue for renewal; the first, {first}'s, expires at"
            f" {end}"
        )


def is_late(leaf: Leaf, now: datetime.datetime) -> bool:
    """Whether a leaf should have been replaced for a while: more than a twentieth of its life."""
    return now > leaf.renew_at + (leaf.not_after - leaf.not_before) / 20


def _certificate(certificate: x509.Certificate, *, is_signing: bool) -> dict[str, Any]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "not_before": utc_text(certificate.not_valid_before_utc),
        "not_after": utc_text(certificate.not_valid_after_utc),
        "signing": is_signing,
    }


def _leads_to(material: Material, root: x509.Certificate) -> bool:
    certificate = material.signer.certificate
    return root == certificate or (
        not material.is_own and root.subject == certificate.issuer
    )


def utc_text(moment: datetime.datetime | None) -> str:
    """A moment as reports write it; empty if there is none."""
    return time_text(moment) if moment is not None else ""
