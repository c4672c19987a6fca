"""The proxies of this host by the names that people use for them.

A workload is found by its name (`bookinfo/reviews-v1-1`), that without the project
(`reviews-v1-1`), its Compose service (`reviews-v1`), or the name or id of one of its containers;
each also with `.NAMESPACE`, as istioctl writes it.

Invariant: a short form that fits several workloads is refused with all of them, never guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.model.contract import LABEL_NAMESPACE, LABEL_ROLE, LABEL_WORKLOAD

_SHORTEST_ID = 6


@dataclass(frozen=True, slots=True)
class LocalProxy:
    """A workload with a proxy on this host. `pod` is its pod's id, `containers` names and ids of
    all its containers. `is_part`: the proxy is that of the host, and serves others, too.
    """

    workload: str
    namespace: str
    pod: str
    containers: tuple[str, ...] = ()
    is_part: bool = False

    @property
    def title(self) -> str:
        """`bookinfo/reviews-v1-1.default`, the way istioctl names proxies."""
        return f"{self.workload}.{self.namespace}"


def local_proxies(engine: LocalEngine) -> list[LocalProxy]:
    """The proxies whose pods run on this host, by workload."""
    of_workload: dict[str, list[str]] = defaultdict(list)
    pods = []

    for container in engine.containers([LABEL_WORKLOAD]):
        labels = container["Labels"]
        known = [name.removeprefix("/") for name in container["Names"]]
        of_workload[labels[LABEL_WORKLOAD]] += [*known, container["Id"]]

        if labels.get(LABEL_ROLE) == "pod" and container["State"] == "running":
            pods.append(
                (
                    labels[LABEL_WORKLOAD],
                    labels.get(LABEL_NAMESPACE, "default"),
                    container["Id"],
                )
            )

    return [
        LocalProxy(name, space, pod, tuple(of_workload[name]))
        for name, space, pod in sorted(pods)
    ]


def find_proxy(
    query: str, proxies: Iterable[LocalProxy], namespace: str = ""
) -> LocalProxy:
    """The proxy that is meant; `namespace` narrows the search. Raises InputError if there is none,
    or several.
    """
    listed = [p for p in proxies if namespace in {"", p.namespace}]
    wanted = query.removeprefix("pod/")

    # From the exact form to the loosest: what is exactly one workload is never several.
    for fits in (_is_name, _is_replica, _is_service, _is_container):
        found = [p for p in listed if any(fits(p, form) for form in _forms(wanted, p))]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(p.workload for p in found)
            raise InputError(
                f"{query!r} may be any of: {several}", fix="name one of them"
            )

    raise InputError(
        f"no proxy on this host is called {query!r}", fix=_suggestion(wanted, listed)
    )


def _forms(wanted: str, proxy: LocalProxy) -> tuple[str, str]:
    """The name as it was given, and without the namespace that istioctl puts behind it."""
    return wanted, wanted.removesuffix(f".{proxy.namespace}")


def _suggestion(wanted: str, proxies: Iterable[LocalProxy]) -> str:
    names = [form for p in proxies for form in (p.workload, _replica(p))]
    near = get_close_matches(wanted, names, n=1)
    return (
        f"did you mean {near[0]}?" if near else "see `dockermesh ps` for the workloads"
    )


def _replica(proxy: LocalProxy) -> str:
    return proxy.workload.rpartition("/")[2]


def _is_name(proxy: LocalProxy, wanted: str) -> bool:
    return proxy.workload == wanted


def _is_replica(proxy: LocalProxy, wanted: str) -> bool:
    return _replica(proxy) == wanted


def _is_service(proxy: LocalProxy, wanted: str) -> bool:
    return wanted in {
        name.rpartition("-")[0] for name in (proxy.workload, _replica(proxy))
    }


def _is_container(proxy: LocalProxy, wanted: str) -> bool:
    is_id = len(wanted) >= _SHORTEST_ID
    return any(
        # Only IDs may be cut short, and they alone are this long.
        known == wanted or (is_id and known.startswith(wanted) and len(known) == 64)
        for known in proxy.containers
    )
