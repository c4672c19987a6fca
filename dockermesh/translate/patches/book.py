"""Every EnvoyFilter of the mesh, compiled once, and for each distinct sequence of patches what it
made so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dockermesh.model import WorkloadKind
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.patches.applying import Patcher
from dockermesh.translate.patches.compiling import (
    CompiledFilter,
    CompiledPatch,
    compile_filter,
    patches_for,
)

_Key = tuple[tuple[CompiledPatch, ...], bool, tuple[str, ...]]


@dataclass(slots=True)
class PatchBook:
    """Follows the mesh's EnvoyFilters; `patcher` finds those of a proxy."""

    _filters: tuple[CompiledFilter, ...] = ()
    _patchers: dict[_Key, Patcher] = field(default_factory=dict)
    _mesh: MeshState = field(default_factory=MeshState)

    def update(self, mesh: MeshState) -> None:
        """Move on to this state: what no proxy asked for since the last one is forgotten."""
        known = {id(compiled.source): compiled for compiled in self._filters}
        self._filters = tuple(
            known.get(id(r)) or compile_filter(r) for r in mesh.config.envoy_filters
        )
        is_moved = mesh.settings.limiter != self._mesh.settings.limiter
        if mesh.names is not self._mesh.names or is_moved:
            # Conditions on a cluster's service look at the names.
            self._patchers.clear()

        self._patchers = {
            key: patcher for key, patcher in self._patchers.items() if patcher.is_used
        }
        for patcher in self._patchers.values():
            patcher.age()
        self._mesh = mesh

    def patcher(self, proxy: Proxy) -> Patcher | None:
        """What patches this proxy's snapshot; None if nothing does."""
        if not self._filters:
            return None
        patches = patches_for(proxy, self._filters, self._mesh.settings.root_namespace)
        if not patches:
            return None

        # Hosts only where they are looked at: else every service would have a patcher of its own.
        hosts = (
            _served(proxy, self._mesh.settings.service_domain)
            if any(
                p.match.cluster is not None and p.match.cluster.service for p in patches
            )
            else ()
        )
        key = (patches, proxy.kind is WorkloadKind.GATEWAY, hosts)
        found = self._patchers.get(key)
        if found is None:
            found = self._patchers[key] = Patcher(
                *key, names=self._mesh.names, settings=self._mesh.settings
            )
        found.is_used = True

        return found

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is left out and why, each with the EnvoyFilter that it is of."""
        for compiled in self._filters:
            for index, reason in compiled.problems.items():
                yield (
                    str(compiled.source),
                    f"{compiled.source} configPatches[{index}] is left out: {reason}",
                )
        for patcher in self._patchers.values():
            for patch, reason in patcher.problems.items():
                yield (
                    str(patch.source),
                    f"{patch.source} configPatches[{patch.index}] is {reason}",
                )


def _served(proxy: Proxy, domain: str) -> tuple[str, ...]:
    workload = proxy.workload
    names = (port.service for port in workload.ports) if workload is not None else ()
    return tuple(dict.fromkeys(f"{name}.{domain}" for name in names))
