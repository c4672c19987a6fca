"""TLS of the control plane's own ports: a leaf of the mesh CA, replaced at half of its life without
a restart.
"""

from __future__ import annotations

import datetime
import ssl
import threading

import grpc

from dockermesh.ca import Authority, AuthorityError, Leaf
from dockermesh.runtime.tls import show_certificate


def load_leaf(context: ssl.SSLContext, leaf: Leaf) -> None:
    """Have new connections of the context show the leaf."""
    show_certificate(context, leaf.key, leaf.certificate)


def server_credentials(
    authority: Authority, names: tuple[str, ...]
) -> grpc.ServerCredentials:
    """Credentials that gRPC asks for at every handshake; they answer with a new leaf at half-life
    or new root.
    """
    lock = threading.Lock()
    leaf = authority.issue_server(list(names))

    def configuration(of: Leaf) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(of.key, of.certificate)])

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal leaf
        # gRPC calls it on threads of its own.
        with lock:
            if authority.is_current(leaf, datetime.datetime.now(datetime.UTC)):
                return None
            try:
                leaf = authority.issue_server(list(names))
            except AuthorityError:
                return None  # the leaf at hand goes on being good until it expires
            return configuration(leaf)

    return grpc.dynamic_ssl_server_credentials(
        # A proxy proves itself by its token: its certificate comes over this very connection.
        configuration(leaf),
        fetch,
        require_client_authentication=False,
    )
