"""The control plane's trust: the CA's material, the leaves made with it, and the steps of a root
rotation.

Invariant: a step is taken only when no connection can break by it, unless the operator insists.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from dockermesh.ca import NEXT, Authority, Leaf, Step
from dockermesh.controlplane.settings import ControlPlaneSettings
from dockermesh.controlplane.trust.ca_keeper import CaKeeper, OwnCa, PluggedCa
from dockermesh.controlplane.trust.ca_report import (
    blockers,
    ca_report,
    ca_warnings,
    taken_here,
)
from dockermesh.controlplane.trust.rotation import Rotation, Taken
from dockermesh.controlplane.trust.state_files import publish_roots
from dockermesh.controlplane.trust.workload_secrets import WorkloadSecrets
from dockermesh.errors import DockermeshError, NotReadyError, RegistryError
from dockermesh.registry import Documents, SealedStore
from dockermesh.xds import ProxyStatus

log = structlog.get_logger(__name__)


class Trust:
    """Made before the CA is open; `secrets` and `authority` are there afterwards. Without a `store`
    the CA is kept in the state directory alone.
    """

    def __init__(
        self,
        settings: ControlPlaneSettings,
        store: SealedStore | None,
        *,
        proxies: Callable[[], list[ProxyStatus]],
        running: Callable[[], Collection[str]],
        rotation: Documents | None = None,
    ) -> None:
        self._settings = settings
        self._proxies = proxies
        self._running = running
        self._store = store
        self.keeper: CaKeeper = _keeper(settings, self._store)
        self.secrets: WorkloadSecrets | None = None
        self._authority: Authority | None = None
        self.rotation = Rotation(
            rotation, lambda: self.authority.material, self._taken_here
        )

    @property
    def authority(self) -> Authority:
        """The authority. Raises NotReadyError before the CA is open."""
        if self._authority is None:
            raise NotReadyError(
                f"the CA is not open yet {self.keeper.problem}".rstrip(),
                fix="try again in a moment",
            )
        return self._authority

    @property
    def missing(self) -> str:
        """What the CA still waits for; empty when it is open."""
        return (
            ""
            if self._authority is not None
            else f"the CA has not been opened yet {self.keeper.problem}".rstrip()
        )

    async def open(self) -> Authority:
        """Open the CA and put its roots where pods find them. Raises AuthorityError."""
        authority = await self.keeper.open()
        publish_roots(self._settings.trust_dir, authority.roots_pem)
        # Before the proxies are told: a new root must be in the file before anything signed by it
        # is shown.
        authority.on_change += [self._publish_roots, self.rotation.wake]
        # Made here, not before: leaves are signed with what was opened.
        self.secrets = WorkloadSecrets(authority, self._settings.leaf_lifetime)
        self._authority = authority
        return authority

    def _publish_roots(self) -> None:
        try:
            publish_roots(self._settings.trust_dir, self.authority.roots_pem)
        except DockermeshError as error:
            # The step is taken, in the store too; pods that start now would miss a root.
            log.error("pods that start now do not get the new roots", reason=str(error))

    async def close(self) -> None:
        """Close the connections."""
        await self.rotation.close()
        if self._store is not None:
            await self._store.close()

    async def status(self) -> dict[str, Any]:
        """The report of `ca status`."""
        authority, secrets = self.authority, self._open_secrets()
        material = authority.material
        step = NEXT[material.phase]
        blocked = await self._blockers(step) if material.is_own else []

        return ca_report(
            material,
            trust_domain=self._settings.trust_domain,
            leaves=secrets.leaves(),
            issued=secrets.issued,
            failures=secrets.failures,
            problems=(self.keeper.problem, secrets.problem),
            blocked=blocked,
            lifetime=self._settings.leaf_lifetime,
            now=datetime.datetime.now(datetime.UTC),
        )

    def certificates(self) -> Mapping[str, Leaf]:
        """The certificates last given to proxies, by workload."""
        return self.secrets.leaves() if self.secrets is not None else {}

    def warnings(self) -> list[str]:
        """What is to be said about the CA and the renewal of certificates."""
        if self._authority is None:
            return [self.missing]
        problems = (self.keeper.problem, self._open_secrets().problem)
        return ca_warnings(
            self._authority.material,
            self.certificates(),
            problems,
            datetime.datetime.now(datetime.UTC),
        )

    async def rotate(self, step: Step, *, force: bool = False) -> list[str]:
        """Take a step; what forbids it, if anything does and it is not forced. Raises
        DockermeshError.
        """
        # A step that is not the next is refused by the keeper, with a better reason.
        is_next = NEXT[self.authority.material.phase] is step
        blocked = await self._blockers(step) if is_next else []
        if not blocked or force:
            if step is Step.PREPARE and is_next:
                await self.rotation.begin()
            await self.keeper.step(step)
        return [] if force else blocked

    def _taken_here(self) -> Taken:
        secrets, proxies = self._open_secrets(), self._proxies()
        # Else a proxy is in sync with what was before the step.
        if not secrets.are_roots_told():
            return Taken(late=frozenset(status.proxy.key for status in proxies))
        return taken_here(self.authority.material, proxies, secrets.leaves())

    async def _blockers(self, step: Step) -> list[str]:
        try:
            elsewhere = await self.rotation.others()
        except RegistryError as error:
            # Then nobody else is known to have taken it.
            log.warning("other replicas' proxies are not known", reason=error.what)
            elsewhere = Taken()
        return blockers(
            step,
            self.authority.material,
            proxies=self._proxies(),
            leaves=self._open_secrets().leaves(),
            running=self._running(),
            lifetime=self._settings.leaf_lifetime,
            now=datetime.datetime.now(datetime.UTC),
            elsewhere=elsewhere,
        )

    def _open_secrets(self) -> WorkloadSecrets:
        if self.secrets is None:
            raise NotReadyError(self.missing, fix="try again in a moment")
        return self.secrets


def _keeper(settings: ControlPlaneSettings, store: SealedStore | None) -> CaKeeper:
    if settings.ca_dir is not None:
        return PluggedCa(settings.ca_dir)
    return OwnCa(
        settings.state_dir / "ca",
        settings.trust_domain,
        store,
        settings.ca_passphrase_file,
    )
