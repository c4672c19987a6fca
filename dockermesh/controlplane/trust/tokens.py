"""Who may be what: the tokens of workloads, those that were revoked, and those with which processes
may join.

Workloads' own tokens are made by their pods and attested; here they are listed, and denied before
their time. A join token is made by an operator, works once and not for long, and says which service
and account its bearer may be. Invariants: only digests are stored; a revoked token lets nobody in
from the moment that the store says so; a join token gives no more than was written into it.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from secrets import token_urlsafe
from types import MappingProxyType
from typing import Any

import structlog

from dockermesh.controlplane.trust.admission import Admission
from dockermesh.errors import DockermeshError, InputError, RegistryError, UsageError
from dockermesh.http.auth import token_bytes
from dockermesh.model import Catalog, Workload
from dockermesh.model.identity import account_of, is_identity_part
from dockermesh.model.protocol import parse_protocol
from dockermesh.model.workload import JOINED
from dockermesh.registry import ConfigStore, JoinedWorkloads, StoredResource
from dockermesh.registry.accept import address_problem, name_problem

log = structlog.get_logger(__name__)

_DENIED, _JOIN, _JOINED = "denied/", "join/", "joined/"
# Seconds between two looks for processes that Consul has lost.
_LOOK_S = 5.0
# Enough of a digest to name it, as Docker does with ids.
_ID_LENGTH = 12
# A token that lies about for longer is found by somebody.
_LONGEST = datetime.timedelta(days=7)
# A pod that starts again has another token, so old denials only take room.
_KEEP_DENIED = datetime.timedelta(days=30)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class NotAllowed(DockermeshError):
    """The join token is none, was used, or has expired."""


NO_JOIN_TOKEN = (
    "the join token is not known, was used, or has expired",
    "make one: dockermesh token create",
)


class Tokens:
    """Follows the store; `run` it beside everything else."""

    def __init__(
        self,
        store: ConfigStore,
        admission: Admission,
        *,
        catalog: Callable[[], Catalog],
        connected: Callable[[], Collection[str]],
        disconnect: Callable[[str, str], None],
        joined: JoinedWorkloads | None,
        allow_loopback: bool = False,
    ) -> None:
        self._store = store
        self._admission = admission
        self._catalog = catalog
        self._connected = connected
        self._disconnect = disconnect
        self._joined = joined
        self._allow_loopback = allow_loopback
        self._known: Mapping[str, StoredResource] = MappingProxyType({})

    async def run(self) -> None:
        """Follow the store, and keep who joined, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store.follow(self.take))
            if self._joined is not None:
                tasks.create_task(self._keep_joined(self._joined))

    async def close(self) -> None:
        """Close the connections."""
        await self._store.close()

    def take(self, stored: Mapping[str, StoredResource]) -> None:
        """New contents of the store."""
        self._known = stored
        # At once: its stream was admitted before, and would stay open.
        for name in self._admission.deny(frozenset(self._below(_DENIED))):
            log.warning("token revoked", workload=name)
            self._disconnect(name, "the token was revoked")

    async def _keep_joined(self, joined: JoinedWorkloads) -> None:
        """Bring back who joined, where Consul lost them: nobody else watches those processes."""
        while True:
            await asyncio.sleep(_LOOK_S)
            kept = self._below(_JOINED)
            if not kept:
                continue

            # While Consul is away there is nothing to be done, and it is told by others.
            with suppress(RegistryError):
                for name in sorted(kept.keys() - await joined.names()):
                    if kept[name].is_lost:
                        continue
                    await joined.restore(Workload.from_dict(kept[name].resource))
                    log.warning("Consul lost who joined; it is restored", workload=name)

    def _below(self, prefix: str) -> dict[str, StoredResource]:
        """What is stored below a prefix, in order, by the rest of its key."""
        return {
            key.removeprefix(prefix): item
            for key, item in sorted(self._known.items())
            if key.startswith(prefix)
        }

    def listing(self) -> list[dict[str, Any]]:
        """All tokens as JSON, without anything that could be used as one."""
        return [*self._of_workloads(), *self._of_joins(), *self._denied_ones()]

    async def create(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A new join token; this is the only time that it is told. Raises UsageError."""
        if self._joined is None:
            raise UsageError(
                "without Consul no process can join",
                fix="run the mesh with --registry consul",
            )

        service = _text(asked, "service")
        namespace = _text(asked, "namespace") or "default"
        account = account_of(_text(asked, "account"), service)

        for problem in (name_problem(service), name_problem(namespace)):
            if problem:
                raise UsageError(problem, fix="name the service with --service")

        if asked.get("account") and not is_identity_part(str(asked["account"])):
            reason = f"{asked['account']!a} cannot be part of an identity"
            raise UsageError(reason, fix="use letters, digits, '.', '_', '-'")

        # Refused rather than shortened: nobody would notice.
        seconds = asked.get("ttl_seconds", 3600)
        if not isinstance(seconds, int) or not 0 < seconds <= _LONGEST.total_seconds():
            raise UsageError(
                "a join token lives at most 7 days",
                fix="give a shorter --ttl, for example 1h",
            )

        # Here and at a revocation, as there is no better time: nothing else writes.
        await self._prune()
        token, expires = token_urlsafe(32), _now() + datetime.timedelta(seconds=seconds)
        record = {
            "service": service,
            "namespace": namespace,
            "account": account,
            "created": _time(_now()),
            "expires": _time(expires),
        }
        await self._store.put(_JOIN + digest_of(token), record, 0)
        log.info(
            "join token created",
            service=service,
            namespace=namespace,
            account=account,
            until=record["expires"],
        )

        return record | {"token": token, "id": digest_of(token)[:_ID_LENGTH]}

    async def revoke(self, which: str) -> dict[str, Any]:
        """Revoke the token of a workload, or the one with this id. Raises InputError when there is
        none.
        """
        for digest in self._below(_JOIN):
            if which == digest[:_ID_LENGTH]:
                await self._store.delete(_JOIN + digest)
                return {"revoked": which, "kind": "join"}

        workload = self._holder(which)
        await self._prune()
        record = {"workload": workload.name, "created": _time(_now())}
        await self._store.put(_DENIED + workload.token_sha256, record)
        if self._joined is not None and workload.host == JOINED:
            # First what would bring it back.
            await self._store.delete(_JOINED + workload.name)
            await self._joined.remove(workload)
        return {"revoked": workload.name, "kind": "workload"}

    def _holder(self, which: str) -> Workload:
        """The workload with this name, or whose token has this id. Raises InputError."""
        attested = (w for w in self._catalog().workloads.values() if w.token_sha256)
        found = [w for w in attested if which in (w.name, w.token_sha256[:_ID_LENGTH])]
        if not found:
            raise InputError(
                f"no token of {which!a}", fix="see `dockermesh token list`"
            )
        [workload] = found
        return workload

    def may_join(self, token: str) -> bool:
        """Whether this is a join token that is good now."""
        record = self._known.get(_JOIN + digest_of(token))
        return record is not None and not _is_over(record.resource)

    async def join(self, token: str, asked: Mapping[str, Any]) -> Workload:
        """Take a process in as a workload. Raises NotAllowed for the token, UsageError for what is
        asked.
        """
        # The digest is the key, so a lookup tells nothing about other tokens.
        key = _JOIN + digest_of(token)
        record = self._known.get(key)
        if record is None or _is_over(record.resource) or self._joined is None:
            what, fix = NO_JOIN_TOKEN
            raise NotAllowed(what, fix=fix)

        workload, ports = _asked_workload(
            asked, record.resource, allow_loopback=self._allow_loopback
        )
        # It works once: whoever takes it out of the store first has it.
        if not await self._store.delete(key, record.version):
            raise NotAllowed(
                "the join token was used at the same time",
                fix="make another: dockermesh token create",
            )

        joined = await self._joined.add(workload, ports)
        await self._store.put(_JOINED + joined.name, joined.to_dict())
        log.info(
            "joined",
            workload=joined.name,
            address=joined.address,
            account=joined.service_account,
        )

        return joined

    def _of_workloads(self) -> list[dict[str, Any]]:
        connected = self._connected()
        denied = self._below(_DENIED)

        return [
            {
                "id": w.token_sha256[:_ID_LENGTH],
                "kind": "workload",
                "workload": w.name,
                "namespace": w.namespace,
                "account": w.service_account,
                "state": "revoked"
                if w.token_sha256 in denied
                else _presence(w.name in connected),
                "expires": "",
            }
            for w in sorted(self._catalog().workloads.values(), key=lambda w: w.name)
            if w.token_sha256
        ]

    def _of_joins(self) -> list[dict[str, Any]]:
        return [
            {
                "id": digest[:_ID_LENGTH],
                "kind": "join",
                "workload": f"{JOINED}/{item.resource.get('service', '?')}",
                "namespace": item.resource.get("namespace", ""),
                "account": item.resource.get("account", ""),
                "state": "expired" if _is_over(item.resource) else "unused",
                "expires": item.resource.get("expires", ""),
            }
            for digest, item in self._below(_JOIN).items()
        ]

    def _denied_ones(self) -> list[dict[str, Any]]:
        # Those of workloads that run are listed with them.
        present = {w.token_sha256 for w in self._catalog().workloads.values()}

        return [
            {
                "id": digest[:_ID_LENGTH],
                "kind": "workload",
                "workload": item.resource.get("workload", ""),
                "namespace": "",
                "account": "",
                "state": "revoked",
                "expires": "",
            }
            for digest, item in self._below(_DENIED).items()
            if digest not in present
        ]

    async def _prune(self) -> None:
        present = {w.token_sha256 for w in self._catalog().workloads.values()}
        for key, item in list(self._known.items()):
            old = _moment(item.resource.get("created")) < _now() - _KEEP_DENIED
            gone = (
                key.startswith(_DENIED)
                and old
                and key.removeprefix(_DENIED) not in present
            )
            if gone or (key.startswith(_JOIN) and _is_over(item.resource)):
                await self._store.delete(key, item.version)


def _presence(is_connected: bool) -> str:
    return "connected" if is_connected else "not connected"


def digest_of(token: str) -> str:
    """What is kept of a token: its SHA-256 in hex."""
    return hashlib.sha256(token_bytes(token)).hexdigest()


def _asked_workload(
    asked: Mapping[str, Any], record: Mapping[str, Any], *, allow_loopback: bool
) -> tuple[Workload, dict[int, str]]:
    digest, address, ports = (
        _text(asked, "token_sha256"),
        _text(asked, "address"),
        asked.get("ports"),
    )
    if not _DIGEST.fullmatch(digest):
        raise UsageError("token_sha256 is no SHA-256")

    problem = address_problem(address, allow_loopback=allow_loopback)
    if problem:
        raise UsageError(
            f"{address!a}: {problem}",
            fix="give the IP address at which the mesh reaches it: --address",
        )
    if not isinstance(ports, dict) or not ports:
        raise UsageError("no port is served", fix="name it with --port")

    served = {}
    for number, protocol in ports.items():
        if (
            not str(number).isdigit()
            or not 0 < int(number) < 65536
            or parse_protocol(str(protocol)) is None
        ):
            raise UsageError(
                f"no port: {number!a} {protocol!a}",
                fix="write --port 8080 or --port 8080/http",
            )
        served[int(number)] = str(protocol)

    workload = Workload(
        id="",
        name="",
        service=str(record["service"]),
        namespace=str(record["namespace"]),
        service_account=str(record["account"]),
        address=address,
        labels=MappingProxyType({"app": str(record["service"])}),
        token_sha256=digest,
    )

    return workload, served


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked.get(key) or ""
    if not isinstance(value, str):
        raise UsageError(f"{key} is no text")
    return value


def _is_over(record: Mapping[str, Any]) -> bool:
    return _moment(record.get("expires")) <= _now()


def _moment(text: Any) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.datetime.fromtimestamp(0, datetime.UTC)


def _time(moment: datetime.datetime) -> str:
    return moment.replace(microsecond=0).isoformat()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
