"""Which mode of mutual TLS holds at a port of a workload, by the PeerAuthentications that cover it.

The mesh (root namespace, no selector) is narrowed by the namespace, that by the policy which
selects the workload, that by its ports. The oldest policy of a scope counts; UNSET inherits; a
policy with a selector in the root namespace counts for nothing. Source: Istio's
`pilot/pkg/security/authn` (ComposePeerAuthentication).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dockermesh.config.api.peer_authentication import (
    MutualTls,
    MutualTlsMode,
    PeerAuthentication,
)
from dockermesh.config.resource import Resource


@dataclass(frozen=True, slots=True)
class PortModes:
    """The mode of a workload, and of its ports that have one of their own; never UNSET."""

    default: MutualTlsMode = MutualTlsMode.PERMISSIVE
    ports: tuple[tuple[int, MutualTlsMode], ...] = ()

    def of(self, port: int) -> MutualTlsMode:
        """The mode at the port where the app listens."""
        return next(
            (mode for number, mode in self.ports if number == port), self.default
        )

    def without_certificate(self) -> PortModes:
        """The modes of a proxy that cannot prove who it is: where both are allowed, plaintext is
        all it has.
        """
        return PortModes(
            _plain(self.default),
            tuple((port, _plain(mode)) for port, mode in self.ports),
        )


PERMISSIVE = PortModes()


class PeerPolicies:
    """The PeerAuthentications of a mesh, by namespace."""

    def __init__(
        self, resources: Iterable[Resource[PeerAuthentication]], root_namespace: str
    ) -> None:
        self._default = MutualTlsMode.PERMISSIVE
        self._namespaces: dict[str, MutualTlsMode] = {}
        self._selecting: dict[str, list[PeerAuthentication]] = {}
        seen = set()

        for resource in resources:
            spec, namespace = resource.spec, resource.namespace
            if spec.selector is not None and spec.selector.match_labels:
                if namespace != root_namespace:
                    self._selecting.setdefault(namespace, []).append(spec)
                continue

            if namespace in seen:
                continue
            seen.add(namespace)
            mode = _mode(spec.mtls)
            if mode is None:
                continue

            if namespace == root_namespace:
                self._default = mode
            else:
                self._namespaces[namespace] = mode

    def modes(self, namespace: str, labels: Mapping[str, str]) -> PortModes:
        """The modes of the workload with these labels."""
        default = self._namespaces.get(namespace, self._default)
        for spec in self._selecting.get(namespace, ()):
            if (
                spec.selector is not None
                and labels.items() >= spec.selector.match_labels.items()
            ):
                default = _mode(spec.mtls) or default
                ports = {
                    port: _mode(mtls) or default
                    for port, mtls in (spec.port_level_mtls or {}).items()
                }
                return PortModes(default, tuple(sorted(ports.items())))

        return PortModes(default)


def _mode(mtls: MutualTls | None) -> MutualTlsMode | None:
    return None if mtls is None or mtls.mode is MutualTlsMode.UNSET else mtls.mode


def _plain(mode: MutualTlsMode) -> MutualTlsMode:
    return MutualTlsMode.DISABLE if mode is MutualTlsMode.PERMISSIVE else mode
