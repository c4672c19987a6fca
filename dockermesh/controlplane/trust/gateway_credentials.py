"""The certificates that Gateways and DestinationRules name by `credentialName`, out of Secrets, for
who needs them.

A gateway finds a credential in its own namespace, as in Istio, else in `default`. Where no Secret
has the name, nothing is sent: the hosts that need it are refused, and all others go on.

Invariant: private keys go to gateways that name them, and to nobody else. Sidecars get trusted
certificates only: those of a Secret in their own namespace or in `default`, else, where the Secret
is a gateway's, their system's. The same snapshot in gives the same snapshot out until a Secret
changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dockermesh.ca import open_seal, sealed_key
from dockermesh.config.api.gateway import Gateway
from dockermesh.config.resource import Resource as ConfigResource
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.kubeapi.served import SECRET
from dockermesh.kubeapi.vault import Vault, credential_pair, credential_roots
from dockermesh.model import Workload, WorkloadKind
from dockermesh.model.contract import SYSTEM_NAMESPACE
from dockermesh.registry import StoredResource
from dockermesh.translate.mesh.visibility import selects
from dockermesh.translate.sidecar.outbound import named
from dockermesh.translate.tls.secrets import (
    inline_pair,
    inline_roots,
    named_credential,
    system_roots,
)
from dockermesh.xds import SECRET as SECRET_TYPE
from dockermesh.xds import Resource, ResourceSet, Snapshot

_SHARED_NAMESPACE = "default"
_MOST_KEPT = 64
_ROOTS_SUFFIX = "-cacert"
_Place = tuple[int, str, bool, str]
"""The secrets of translation, a namespace, whether it is a gateway, and with what it may keep keys.
"""


def open_credentials(settings: ControlPlaneSettings) -> GatewayCredentials:
    """With the seal of the CA: who can open the one can open the other. Raises AuthorityError."""
    # One key for both: there is one to be backed up.
    key_file = settings.state_dir / "ca" / "sealing.key"
    return GatewayCredentials(
        Vault(open_seal(settings.ca_passphrase_file, key_file, may_create=True))
    )


class GatewayCredentials:
    """The Secrets of the mesh as secrets of SDS."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self._known: dict[str, tuple[StoredResource, dict[str, bytes]]] = {}
        self._made: dict[_Place, tuple[ResourceSet, ResourceSet]] = {}

    def update(self, stored: Mapping[str, StoredResource]) -> bool:
        """Take over the stored Secrets. Returns whether any changed."""
        known = {}
        for key, item in stored.items():
            if key.startswith(SECRET.prefix):
                old = self._known.get(key)
                is_same = old is not None and old[0] is item
                known[key] = (
                    old
                    if old is not None and is_same
                    else (item, self.vault.values(item.resource, key))
                )

        is_changed = known.keys() != self._known.keys() or any(
            known[k] is not self._known[k] for k in known
        )
        if is_changed:
            self._known = known
            self._made.clear()

        return is_changed

    def layered(
        self, workload: Workload, snapshot: Snapshot, seal: str = ""
    ) -> Snapshot:
        """The snapshot with the workload's credentials in it; `seal` as with its certificate."""
        under = snapshot.secrets
        if not any(map(named_credential, under)):
            return snapshot
        is_gateway = workload.kind is WorkloadKind.GATEWAY
        # Sidecars get no keys, and so share theirs.
        place = (id(under), workload.namespace, is_gateway, seal if is_gateway else "")
        known = self._made.get(place)
        if known is None or known[0] is not under:
            if len(self._made) >= _MOST_KEPT:
                self._made.clear()
            known = self._made[place] = (
                under,
                self._filled(under, place),
            )
        return snapshot if known[1] is under else replace(snapshot, secrets=known[1])

    def _filled(self, under: ResourceSet, place: _Place) -> ResourceSet:
        """The secrets with those of credentials in the place of what translation made of their
        names.
        """
        wanted = [name for name in under if named_credential(name)]
        kept = [
            resource
            for resource in under.values()
            if not named_credential(resource.name)
        ]
        own = (self._resource(name, *place[1:]) for name in wanted)
        return ResourceSet(
            [*kept, *(resource for resource in own if resource is not None)]
        )

    def _resource(
        self, name: str, namespace: str, is_gateway: bool, seal: str
    ) -> Resource | None:
        credential = named_credential(name)
        if not credential:
            return None

        if credential.endswith(_ROOTS_SUFFIX):
            base = credential.removesuffix(_ROOTS_SUFFIX)
            roots = credential_roots(
                self._values(namespace, credential)
            ) or credential_roots(self._values(namespace, base))
            if roots:
                return named(SECRET_TYPE, inline_roots(name, roots))
            # A gateway's credential concerns sidecars, too, which see the same DestinationRule.
            # Their container has no such file: they would refuse the secret.
            is_elsewhere = any(
                key.rpartition("/")[2] in {credential, base} for key in self._known
            )
            return (
                named(SECRET_TYPE, system_roots(name))
                if is_elsewhere and not is_gateway
                else None
            )

        pair = (
            credential_pair(self._values(namespace, credential)) if is_gateway else None
        )
        if pair is None:
            return None
        certificate, key = pair
        sealed = sealed_key(key, seal) if seal else b""
        return named(SECRET_TYPE, inline_pair(name, certificate + sealed, key))

    def missing_for(
        self, resource: ConfigResource[Gateway], workloads: Iterable[Workload]
    ) -> Iterator[str]:
        """What of a Gateway's certificates no gateway that it selects can have, as sentences."""
        serving = [
            w
            for w in workloads
            if w.kind is WorkloadKind.GATEWAY
            and selects(resource.spec.selector, w.labels)
        ]
        namespaces = {w.namespace for w in serving} or {SYSTEM_NAMESPACE}
        for position, server in enumerate(resource.spec.servers):
            tls = server.tls
            if tls is None:
                continue
            for name in (tls.credential_name, *tls.credential_names):
                for namespace in sorted(namespaces) if name else ():
                    problem = self._lack(namespace, name)
                    if problem:
                        yield (
                            f"spec.servers[{position}].tls: {problem}; its hosts are refused"
                        )

    def _lack(self, namespace: str, name: str) -> str:
        places = dict.fromkeys((namespace, _SHARED_NAMESPACE))
        if not any(SECRET.key(place, name) in self._known for place in places):
            return f"there is no Secret {name} in namespace {' or '.join(places)}"
        if credential_pair(self._values(namespace, name)) is None:
            return f"Secret {name} holds no certificate with its key"
        return ""

    def _values(self, namespace: str, name: str) -> dict[str, bytes]:
        for place in (namespace, _SHARED_NAMESPACE):
            found = self._known.get(SECRET.key(place, name))
            if found is not None:
                return found[1]
        return {}
