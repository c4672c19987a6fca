"""The files with which Prometheus reads proxies' metrics: a certificate of the mesh for its own
account, the mesh's roots, and a token for the two pages of the control plane that it needs.

They are in a folder that nobody else has mounted, readable for whatever user Prometheus runs as.
Invariant: the certificate in it is good, and signed by who signs now; it is replaced at half of its
life, and with the CA's material. The token follows from the API's and opens nothing else.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from dockermesh.ca import Authority, AuthorityError, Leaf
from dockermesh.model.contract import (
    SCRAPER_ACCOUNT,
    SYSTEM_NAMESPACE,
    TELEMETRY_PURPOSE,
)
from dockermesh.model.identity import Identity
from dockermesh.runtime.files import FOR_ALL, replace_file

log = structlog.get_logger(__name__)

_LOOK_S = 30.0


def scraper_token(api_token: str) -> str:
    """The token of Prometheus."""
    key, purpose = api_token.encode(), TELEMETRY_PURPOSE.encode()
    return hmac.new(key, purpose, hashlib.sha256).hexdigest()


class ScraperFiles:
    """Keeps the files of one folder good."""

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        trust_domain: Callable[[], str],
        token: str,
    ) -> None:
        self._folder = folder
        self._authority = authority
        self._trust_domain = trust_domain
        self._token = token
        self._leaf: Leaf | None = None
        self._identity: Identity | None = None
        self._roots = b""
        self._wake = asyncio.Event()
        authority.on_change.append(self._wake.set)

    async def run(self) -> None:
        """Write them, and write them anew when it is time, for ever."""
        problem = ""
        while True:
            try:
                self.renew(datetime.datetime.now(datetime.UTC))
                problem = ""
            except (OSError, AuthorityError) as error:
                if problem != str(error):
                    problem = str(error)
                    log.error(
                        "Prometheus gets no certificate",
                        folder=str(self._folder),
                        reason=problem,
                    )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_S)
            self._wake.clear()

    def renew(self, now: datetime.datetime) -> None:
        """Replace what is not good any more. Raises OSError, AuthorityError."""
        identity = Identity(self._trust_domain(), SYSTEM_NAMESPACE, SCRAPER_ACCOUNT)
        is_good = (
            self._leaf is not None
            and self._identity == identity
            and self._authority.is_current(self._leaf, now)
        )
        if not is_good:
            leaf = self._authority.issue_workload(
                identity, holder=SCRAPER_ACCOUNT, now=now
            )
            self._folder.mkdir(parents=True, exist_ok=True)
            # One file, so that nobody reads the one with the other's key.
            pair = leaf.certificate + leaf.key
            replace_file(self._folder / "prometheus.pem", pair, FOR_ALL)
            replace_file(self._folder / "token", self._token.encode(), FOR_ALL)
            self._leaf, self._identity = leaf, identity
        if self._roots != self._authority.roots_pem:
            self._roots = self._authority.roots_pem
            replace_file(self._folder / "root.pem", self._roots, FOR_ALL)
