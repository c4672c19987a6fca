"""The certificates that a node's proxy gets over its ADS stream: one for each identity that it
serves, under the names by which its listeners and clusters ask for them, and the roots.

Invariants: it has no identity of which no workload is attested on its own host, and loses one with
the last workload that has it. While nothing changed, the same snapshot in gives the same snapshot
out.
"""

from __future__ import annotations

from collections.abc import Iterable

from dockermesh.ca import Leaf
from dockermesh.controlplane.trust.workload_secrets import Recipient, WorkloadSecrets
from dockermesh.model import Workload
from dockermesh.model.canonical import facts_of
from dockermesh.translate.sidecar.outbound import named
from dockermesh.translate.tls.secrets import issued_certificates
from dockermesh.xds import SECRET, Resource, ResourceSet, Snapshot


class NodeSecrets:
    """Those of one node's proxy, whose key is `node`."""

    def __init__(self, node: str, leaves: WorkloadSecrets) -> None:
        self._node = node
        self._leaves = leaves
        self._made: dict[str, tuple[Leaf, list[Resource]]] = {}
        self._under: Snapshot | None = None
        self._last: Snapshot | None = None
        self._own: ResourceSet | None = None

    def layered(
        self, served: Iterable[Workload], trust_domain: str, under: Snapshot
    ) -> Snapshot:
        """What the proxy is to have: `under` with the certificates of the workloads that it
        serves, and the roots.
        """
        before, self._made = self._made, {}
        # By name: of several workloads of an identity always the same one's leaf is taken.
        for workload in sorted(served, key=lambda w: w.name):
            identity = workload.identity(trust_domain)
            uri = str(identity)
            if uri in self._made:
                continue
            facts = facts_of(workload.name, workload.namespace, workload.labels)
            to = Recipient(identity, workload.id, facts=facts.text)
            leaf = self._leaves.leaf_at(self._node, workload.name, to)
            if leaf is None:
                continue
            known = before.get(uri)
            if known is None or known[0] is not leaf:
                known = (leaf, _secrets(uri, leaf))
            self._made[uri] = known
        return self._over(under)

    def _over(self, under: Snapshot) -> Snapshot:
        issued = (secret for _, pair in self._made.values() for secret in pair)
        own = ResourceSet([self._leaves.roots, *issued], base=under.secrets)
        is_same = self._own is not None and own.version == self._own.version
        if self._last is None or not is_same or self._under is not under:
            self._under, self._own = under, own
            self._last = under.with_secrets(own)
        return self._last


def _secrets(uri: str, leaf: Leaf) -> list[Resource]:
    made = issued_certificates(uri, leaf.certificate, leaf.key)
    return [named(SECRET, secret) for secret in made]
