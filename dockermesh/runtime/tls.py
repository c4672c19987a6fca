"""TLS of the servers and clients that have certificates of the mesh.

Invariant: of TLS 1.2 a server takes only what TLS 1.3 kept: forward secrecy and authenticated
encryption.
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path


def server_context(protocol: str) -> ssl.SSLContext:
    """A context for a server that speaks this protocol of ALPN; it has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols([protocol])
    return context


def ask_for_certificates(context: ssl.SSLContext, roots: bytes) -> None:
    """Have a server take nobody whose certificate these roots (PEM) did not sign."""
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=roots.decode())


def show_certificate(context: ssl.SSLContext, key: bytes, certificate: bytes) -> None:
    """Have new connections of the context show this certificate (PEM)."""
    with tempfile.TemporaryDirectory() as folder:
        # The ssl module reads keys from files only; the folder is ours alone.
        file = Path(folder) / "leaf.pem"
        file.touch(0o600)
        file.write_bytes(key + certificate)
        context.load_cert_chain(file)
