"""Where the CA's material comes from and is kept: sealed in Consul with a copy here, or in the
user's own files.

Invariants: a CA that exists but cannot be read is an error; a new one is made only where there is
none in Consul and none here. What Consul lost, or took back to an older state, is restored from the
copy. The key is written sealed only.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import structlog

from dockermesh.ca import (
    Authority,
    AuthorityError,
    Material,
    Seal,
    Step,
    advance,
    from_json,
    new_material,
    open_seal,
    private_bytes,
    to_json,
    write_private,
)
from dockermesh.ca.plugged import fingerprint, read_plugged
from dockermesh.ca.sealing import unsaved
from dockermesh.errors import DockermeshError, RegistryError, UsageError
from dockermesh.registry import Sealed, SealedStore
from dockermesh.runtime.files import PRIVATE, drafted

log = structlog.get_logger(__name__)
_RETRY_S = 5.0
_LOOK_S = 5.0


class CaKeeper(Protocol):
    """A source of material."""

    problem: str

    async def open(self) -> Authority:
        """The authority, ready to sign. Raises AuthorityError when the CA cannot be used."""

    async def follow(self) -> None:
        """Keep the authority up to date, until cancelled."""

    async def step(self, step: Step) -> Material:
        """Take a step of a root rotation. Raises DockermeshError when it cannot be taken."""


class OwnCa:
    """The CA that the mesh made itself. Without a store its copy on this host is all there is."""

    def __init__(
        self,
        folder: Path,
        trust_domain: str,
        store: SealedStore | None,
        passphrase_file: Path | None = None,
    ) -> None:
        self._copy = folder / "sealed.json"
        self._key_file = folder / "sealing.key"
        self._passphrase_file = passphrase_file
        self._trust_domain = trust_domain
        self._store = store
        self._seal: Seal | None = None
        self._authority: Authority | None = None
        self._arrived: asyncio.Queue[Sealed] = asyncio.Queue()
        self.problem = ""

    async def open(self) -> Authority:
        """The authority; waits until Consul tells whether there is one already.

        A copy of what it told is enough where it has been away for the whole grace of a start.
        """
        while True:
            try:
                material = await self._settle(await self._read())
            except RegistryError as error:
                copied = self._copied()
                if copied is not None:
                    self.problem = f"{error.what}; the copy of the CA is in force"
                    log.warning("the copy of the CA is in force", reason=error.what)
                    self._authority = Authority(copied)
                    return self._authority
                if not self.problem:
                    log.warning(
                        "waiting for Consul, which keeps the CA", reason=error.what
                    )
                self.problem = error.what
                left = self._store.grace.left if self._store is not None else 0.0
                await asyncio.sleep(min(_RETRY_S, left) or _RETRY_S)
                continue
            self.problem = ""
            self._authority = Authority(material)
            return self._authority

    def _copied(self) -> Material | None:
        """The copy on this host, once the store was waited for long enough; never a new CA."""
        is_over = self._store is not None and not self._store.grace.left
        return self._load() if is_over else None

    async def follow(self) -> None:
        """Take over what other control planes write, and restore what Consul loses."""
        if self._store is None:
            await asyncio.Event().wait()
            return

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store.follow(self._arrived.put_nowait))
            while True:
                try:
                    await self._take(await self._arrived.get())
                    self.problem = ""
                except (AuthorityError, RegistryError, OSError) as error:
                    # What is in force stays in force: proxies trust it, and nothing else.
                    self.problem = str(error)
                    log.error(
                        "the CA in the store is not taken over", reason=str(error)
                    )

    async def step(self, step: Step) -> Material:
        """Take a step, here and in the store, or nowhere."""
        if self._authority is None:
            raise AuthorityError(
                "the CA is not open yet",
                fix="try again when the control plane is ready",
            )

        stored = await self._read()
        present = await self._settle(stored)
        after = advance(present, step, self._trust_domain, _now())
        sealed = self._sealing().close(to_json(after))
        # Written before the store is, and named after: the store cannot be taken back, and a full
        # disk is no reason any more once the draft is there.
        with self._drafted(sealed) as put:
            if self._store is None:
                put()
            else:
                await self._commit(self._store, sealed, stored.version)
            self._install(after)
            if self._store is not None:
                self._put_late(put)

        log.warning(
            "root rotation",
            step=step.value,
            phase=after.phase.value,
            roots=len(after.roots),
        )

        return after

    async def _commit(self, store: SealedStore, sealed: str, version: int) -> None:
        """Put the step into the store. Raises DockermeshError if it is not there."""
        try:
            written = await store.write(sealed, version)
        except RegistryError as error:
            written = await self._arrived_after_all(store, sealed, error)
        if not written:
            raise AuthorityError(
                "another control plane changed the CA at the same time",
                fix="look at `ca status`",
            )

    async def _arrived_after_all(
        self, store: SealedStore, sealed: str, error: RegistryError
    ) -> bool:
        # Only the answer may be lost. Each sealing is another text, so it is known again.
        try:
            found = await store.read()
        except RegistryError:
            raise AuthorityError(
                f"it is not known whether the step was taken: {error.what}",
                where=store.where,
                fix=(
                    "when Consul answers again, see `dockermesh ca status`, which names the next"
                    " step; nothing breaks meanwhile"
                ),
            ) from error
        if found.text != sealed:
            raise error
        return True

    def _put_late(self, put: Callable[[], None]) -> None:
        """Keep the copy of a step that has been taken; no error may follow it."""
        try:
            put()
        except OSError as error:
            # Read again from the store at the next start, or when it changes.
            self.problem = f"{unsaved(self._copy, error)}"
            log.error("the copy of the CA is an old one", reason=self.problem)

    @contextmanager
    def _drafted(self, sealed: str) -> Iterator[Callable[[], None]]:
        """The copy to be, ready to be put in place. Raises AuthorityError when there is no room."""
        with ExitStack() as stack:
            try:
                self._copy.parent.mkdir(parents=True, exist_ok=True)
                draft = drafted(self._copy, sealed.encode(), PRIVATE, is_durable=True)
                put = stack.enter_context(draft)
            except OSError as error:
                raise unsaved(self._copy, error) from error
            yield put

    async def _take(self, sealed: Sealed) -> None:
        if sealed.text:
            # What the others sign with counts at once, whether or not it can be saved here.
            remote = self._unseal(sealed.text, self._where)
            if (
                self._authority is not None
                and remote.mesh == self._authority.material.mesh
            ):
                self._install(remote)
        self._install(await self._settle(sealed))

    def _install(self, material: Material) -> None:
        authority = self._authority
        if (
            authority is not None
            and authority.material.generation < material.generation
        ):
            authority.install(material)

    async def _read(self) -> Sealed:
        return await self._store.read() if self._store is not None else Sealed()

    async def _write(self, material: Material, version: int) -> bool:
        if self._store is None:
            return True
        return await self._store.write(
            self._sealing().close(to_json(material)), version
        )

    async def _settle(self, stored: Sealed) -> Material:
        """The material to use, with store and copy brought to it."""
        local = self._newest()
        remote = self._unseal(stored.text, self._where) if stored.text else None
        if local is not None and remote is not None and local.mesh != remote.mesh:
            raise self._of_another_mesh()

        if remote is not None and not _is_newer(local, remote):
            if self._lacks(remote):
                self._save(remote)
            return remote

        mine = local or self._new()
        if local is not None and self._store is not None:
            log.warning(
                "Consul lost the CA or has an older one; it is restored from the copy of this host"
            )
        # Another control plane may have written meanwhile: then theirs is looked at, too.
        if not await self._write(mine, stored.version):
            return await self._settle(await self._read())
        self._save(mine)
        return mine

    def _lacks(self, remote: Material) -> bool:
        # By the copy itself: what is in force may be newer, and is lost with the process.
        copy = self._load()
        return copy is None or _is_newer(remote, copy)

    def _new(self) -> Material:
        made = new_material(self._trust_domain, _now())
        log.info("a new mesh root was made", trust_domain=self._trust_domain)
        return made

    def _of_another_mesh(self) -> AuthorityError:
        return AuthorityError(
            "Consul holds the CA of another mesh than this control plane's",
            where=str(self._copy),
            fix=(
                "point it at its own Consul; to give up its CA for the one in Consul, delete this"
                " file"
            ),
        )

    @property
    def _where(self) -> str:
        return self._store.where if self._store is not None else str(self._copy)

    def _newest(self) -> Material | None:
        """What is in force here or in the copy, whichever is newer."""
        copy, used = (
            self._load(),
            self._authority.material if self._authority is not None else None,
        )
        if copy is None or used is None:
            return copy or used
        return used if used.generation > copy.generation else copy

    def _load(self) -> Material | None:
        if not self._copy.exists():
            return None
        sealed = private_bytes(self._copy, "the CA", is_ours=True).decode(
            "utf-8", "replace"
        )
        return self._unseal(sealed, str(self._copy))

    def _unseal(self, sealed: str, where: str) -> Material:
        opened = self._sealing(may_create=False).open(sealed, where)
        try:
            return from_json(opened)
        except (ValueError, KeyError, TypeError) as error:
            raise AuthorityError(
                f"the CA cannot be read: {error}",
                where=where,
                fix="restore it from a backup",
            ) from error

    def _sealing(self, *, may_create: bool = True) -> Seal:
        if self._seal is None:
            self._seal = open_seal(
                self._passphrase_file, self._key_file, may_create=may_create
            )
        return self._seal

    def _save(self, material: Material) -> None:
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._copy, self._sealing().close(to_json(material)).encode())
        except OSError as error:
            raise unsaved(self._copy, error) from error


class PluggedCa:
    """The CA that the user brings. Its files are looked at again every few seconds, so replacing
    them is enough.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[bytes, ...] = ()
        self._authority: Authority | None = None
        self.problem = ""

    async def open(self) -> Authority:
        """The authority of the files."""
        self._seen = fingerprint(self._folder)
        self._authority = Authority(read_plugged(self._folder, _now()))
        return self._authority

    async def follow(self) -> None:
        """Take over new files as soon as they belong together; until then the old ones stay in
        force.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self._look()
                self.problem = ""
            except (OSError, DockermeshError) as error:
                if str(error) != self.problem:
                    log.error(
                        "the CA's new files are not taken over", reason=str(error)
                    )
                self.problem = str(error)

    def _look(self) -> None:
        found = fingerprint(self._folder)
        if found != self._seen and self._authority is not None:
            self._authority.install(read_plugged(self._folder, _now()))
            self._seen = found
            log.warning("the CA's files were replaced", folder=str(self._folder))

    async def step(self, step: Step) -> Material:
        """The user's CA is rotated by its files."""
        raise UsageError(
            f"{step}: this mesh's CA is yours, so its files are rotated, not the mesh",
            where=str(self._folder),
            fix=(
                "add the new root to root-cert.pem; then replace ca-cert.pem, ca-key.pem and"
                " cert-chain.pem; when every leaf is new (`ca status`), take the old root out. Each"
                " change counts within seconds"
            ),
        )


def _is_newer(one: Material | None, other: Material) -> bool:
    return one is not None and one.generation > other.generation


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
