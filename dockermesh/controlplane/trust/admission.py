"""Who may open an xDS stream, and as whom.

A proxy shows the token that its pod made. The registrar read the token's digest from the pod's own
log, so the digest names the workload; the node id must name the same one, and the connection must
come from the workload's address. Nothing is sent to a proxy before this returned. Source of the
rules: the trust section of the design.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping

import grpc
import structlog

from dockermesh.ca import seal_password
from dockermesh.http.auth import FailureLimit, token_bytes
from dockermesh.model import Workload
from dockermesh.xds import NodeInfo, Refused

log = structlog.get_logger(__name__)

PATIENCE_S = 5.0
"""How long a proxy may wait to be known: it can be here a moment before its pod's log line went
through Docker, the registrar and Consul.
"""
_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
_DENIED = grpc.StatusCode.PERMISSION_DENIED


class Admission:
    """Looks tokens up among the workloads of the latest catalog."""

    def __init__(self, denied: frozenset[str] | None = frozenset()) -> None:
        """`denied` are digests of revoked tokens; None: not known yet, and until then nobody is let
        in.
        """
        self._denied = denied
        self._limit = FailureLimit()
        self._by_digest: dict[str, Workload] = {}
        self._workloads: Mapping[str, Workload] | None = None
        self._changed = asyncio.Event()
        self._seals: dict[str, tuple[str, str]] = {}

    def seal_of(self, workload: str) -> str:
        """The password with which the workload's proxy, which was let in, may keep private keys;
        empty if its token is not the one that it was let in with.
        """
        found = self._workloads.get(workload) if self._workloads else None
        digest, seal = self._seals.get(workload, ("", ""))
        return seal if found is not None and found.token_sha256 == digest else ""

    def update(self, workloads: Mapping[str, Workload]) -> None:
        """Take the workloads of a new catalog."""
        if workloads is self._workloads:
            return
        self._workloads = workloads
        # Looked up by every stream: not searched each time.
        self._by_digest = {
            w.token_sha256: w for w in workloads.values() if w.token_sha256
        }
        self._seals = {
            name: seal for name, seal in self._seals.items() if name in workloads
        }
        self._wake()

    def deny(self, digests: frozenset[str]) -> list[str]:
        """Take the digests of all revoked tokens; the workloads that lose their right by it."""
        fresh = digests - (self._denied or frozenset())
        self._denied = digests
        self._wake()
        return [
            self._by_digest[digest].name
            for digest in fresh
            if digest in self._by_digest
        ]

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def authorize(
        self, metadata: Mapping[str, str], node: NodeInfo, peer: str
    ) -> str:
        """The name of the workload whose proxy this is; raises Refused."""
        address = peer_address(peer)
        # The registry holds digests: who reads it cannot pose as a workload.
        token = token_bytes(_bearer(metadata))
        digest = hashlib.sha256(token).hexdigest()
        workload = await self._known_or_counted(digest, address)
        if workload is None:
            raise Refused(
                _UNAUTHENTICATED, "the token belongs to no workload that runs now"
            )

        if self._denied is None:
            raise Refused(_DENIED, "not ready yet")
        # Revoked ones are known by their digest, too; the record may still be there.
        if digest in self._denied:
            raise Refused(_DENIED, f"the token of {workload.name} was revoked")
        _check_claims(workload, node, peer)
        self._seals[workload.name] = (digest, seal_password(token))
        return workload.name

    async def _known_or_counted(self, digest: str, address: str) -> Workload | None:
        """The workload with this digest, if it is known in time; raises Refused for who guesses.

        An app has the address of its own proxy, and must not be able to lock that out: a digest
        that is known is let in whatever else came from there.
        """
        # Before the first catalog, everybody is unknown.
        if digest in self._by_digest or self._workloads is None:
            return await self._find(digest)

        if self._limit.is_spent(address):
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many attempts with a wrong token",
            )
        # Before the wait: else any number could be tried during it.
        self._limit.failed(address)
        workload = await self._find(digest)
        if workload is not None:
            self._limit.forgive(address)
        return workload

    async def _find(self, digest: str) -> Workload | None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        # Two stores are followed apart from each other: both must have been read.
        while digest not in self._by_digest or self._denied is None:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return None
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return None
        return self._by_digest[digest]


def _bearer(metadata: Mapping[str, str]) -> str:
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refused(
            _UNAUTHENTICATED,
            "no token: proxies must send 'authorization: Bearer TOKEN'",
        )
    return token.strip()


def _check_claims(workload: Workload, node: NodeInfo, peer: str) -> None:
    """Refuse who shows the token of another, or uses it elsewhere: then it was stolen."""
    # A token is that of one workload; with it no other may be asked about.
    named = node_workload(node.id, workload.namespace)
    if not hmac.compare_digest(named.encode(), workload.name.encode()):
        log.warning(
            "node id and token disagree",
            node=node.id,
            token_of=workload.name,
            peer=peer,
        )
        raise Refused(_DENIED, f"the token is not that of {node.id!r}")

    address = peer_address(peer)
    # The record of a pod that is starting may have no address yet.
    if workload.address and address != workload.address:
        log.warning(
            "token used from elsewhere",
            workload=workload.name,
            peer=peer,
            expected=workload.address,
        )
        raise Refused(_DENIED, f"{workload.name} does not run at {address}")


def node_workload(node_id: str, namespace: str) -> str:
    """The workload named in a node id `kind~address~workload.namespace~domain`; empty if it is not
    of that form.
    """
    parts = node_id.split("~")
    return parts[2].removesuffix(f".{namespace}") if len(parts) == 4 else ""


def peer_address(peer: str) -> str:
    """The IP of gRPC's `ipv4:10.0.0.1:1234` or `ipv6:%5B::1%5D:1234`."""
    address = peer.partition(":")[2].rpartition(":")[0]
    return (
        address.replace("%5B", "")
        .replace("%5D", "")
        .strip("[]")
        .removeprefix("::ffff:")
    )
