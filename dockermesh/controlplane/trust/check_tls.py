"""The certificate with which the control plane asks proxies for their app's health, where they take
no plaintext.

It is a workload's certificate like any other:
`spiffe://TRUST_DOMAIN/ns/istio-system/sa/dockermesh-control-plane`.
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable

from dockermesh.ca import Authority, AuthorityError, Leaf
from dockermesh.http.credentials import load_leaf
from dockermesh.model.contract import CONTROL_PLANE_ACCOUNT, SYSTEM_NAMESPACE
from dockermesh.model.identity import Identity
from dockermesh.translate.envoy.offered import HTTP_PROTOCOL


class CheckTls:
    """TLS contexts with a certificate that is good at the moment. `authority` raises NotReadyError
    while the CA is not open.
    """

    def __init__(
        self,
        authority: Callable[[], Authority],
        trust_domain: Callable[[], str],
        *,
        by_name: bool = False,
    ) -> None:
        """With `by_name` who answers must have the host name that is asked for: no proxy does."""
        self._by_name = by_name
        self._authority = authority
        self._trust_domain = trust_domain
        self._made: ssl.SSLContext | None = None
        self._leaf: Leaf | None = None
        self._of: tuple[bytes, Identity] | None = None

    def context(self) -> ssl.SSLContext:
        """What a connection to a proxy is made with; it verifies the mesh's roots. Raises
        AuthorityError, NotReadyError.
        """
        authority = self._authority()
        identity = Identity(
            self._trust_domain(), SYSTEM_NAMESPACE, CONTROL_PLANE_ACCOUNT
        )
        of, now = (
            (authority.roots_pem, identity),
            datetime.datetime.now(datetime.UTC),
        )
        if (
            self._made is None
            or self._leaf is None
            or self._of != of
            or not authority.is_current(self._leaf, now)
        ):
            try:
                self._leaf = authority.issue_workload(
                    identity, holder=CONTROL_PLANE_ACCOUNT
                )
            except AuthorityError:
                if self._made is None:
                    raise
                return self._made  # its leaf goes on being good until it expires
            self._made, self._of = _context(self._leaf, of[0]), of
            self._made.check_hostname = self._by_name

        return self._made


def _context(leaf: Leaf, roots: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A proxy's certificate has no host name, it names a workload; nothing secret is sent.
    context.check_hostname = False
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols([HTTP_PROTOCOL])
    load_leaf(context, leaf)
    return context
