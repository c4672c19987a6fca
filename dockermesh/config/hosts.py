"""Host names in configuration: short names, wildcards, and which of several hosts is the most
specific.

A short host (`reviews`) is that of a service in the namespace of the resource that says it, as
Istio documents. Matching ignores case, and a wildcard (`*`, `*.example.com`) covers any number of
labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from dockermesh.model.contract import CLUSTER_DOMAIN

DEFAULT_DOMAIN = CLUSTER_DOMAIN


def fully_qualified(host: str, namespace: str, domain: str = DEFAULT_DOMAIN) -> str:
    """`reviews` as `reviews.<namespace>.<domain>`; every host with a dot or a wildcard, and every
    address, as it is.
    """
    if "." in host or ":" in host or host.startswith("*") or not host:
        return host
    return f"{host}.{namespace}.{domain}"


def is_short(host: str) -> bool:
    """Whether the host stands for a service of the same namespace."""
    return (
        bool(host) and "." not in host and ":" not in host and not host.startswith("*")
    )


def kubernetes_service(
    host: str, domain: str = DEFAULT_DOMAIN
) -> tuple[str, str] | None:
    """Name and namespace in `reviews.default.svc.cluster.local` (or a prefix such as
    `reviews.default.svc`).
    """
    rest = host.removesuffix(".").lower()
    # `reviews.default.svc` resolves in every pod of Kubernetes, by its search list.
    for suffix in (f".{domain}", ".svc"):
        if rest.endswith(suffix):
            parts = rest.removesuffix(suffix).split(".")
            return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None
    return None


def matches(pattern: str, host: str) -> bool:
    """Whether every host that `host` stands for is covered by `pattern`; both may have a
    wildcard.
    """
    pattern, host = pattern.lower(), host.lower()
    if pattern in (host, "*"):
        return True
    if not pattern.startswith("*"):
        return False
    suffix = pattern[1:]
    return host.removeprefix("*").endswith(suffix) and (
        len(host) > len(suffix) or host.startswith("*")
    )


def covering(patterns: Set[str], host: str) -> str | None:
    """A pattern (all in lower case) that covers `host`: itself, else a wildcard.

    The time depends on the length of the host, not on the number of patterns.
    """
    return (
        host.lower() if host.lower() in patterns else covering_wildcard(patterns, host)
    )


def covering_wildcard(patterns: Set[str], host: str) -> str | None:
    """As `covering`, but not the host itself."""
    host = host.lower()
    rest = host.removeprefix("*")
    # A wildcard stands for at least one character, unless the host is a wildcard itself.
    first = 0 if rest != host else 1
    ends = (f"*{rest[start:]}" for start in range(first, len(rest) + 1))
    return next(
        (pattern for pattern in ends if pattern != host and pattern in patterns), None
    )


def most_specific(host: str, candidates: Iterable[str]) -> str | None:
    """The candidate that covers `host` and is closest to it: itself, else the longest wildcard;
    None if none covers.
    """
    covering = [candidate for candidate in candidates if matches(candidate, host)]
    # A name before any wildcard, and of two wildcards the longer.
    return max(covering, key=lambda c: (not c.startswith("*"), len(c)), default=None)
