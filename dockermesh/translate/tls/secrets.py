"""SDS secrets, named the way Istio names them: certificates in files of the proxy, and those that
the mesh issues.

Invariant: the secret of a file follows from its name alone: it says in which files of the proxy's
container the certificate is, and the proxy loads them again when they are replaced. That of a
credential is what `render` shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from dockermesh.model.contract import CREDENTIALS_PATH, ROOTS_SECRET
from dockermesh.translate.envoy.discovery import ads

CREDENTIALS_DIR = CREDENTIALS_PATH
"""Where `render`, which knows no Secrets, has `credentialName`:
`<dir>/<name>/{tls.crt,tls.key,ca.crt}`. In a running mesh the API's Secrets take this place, or
nothing does.
"""
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
WORKLOAD_CERTIFICATE = "default"
MESH_ROOT = ROOTS_SECRET
_CLIENT = "c/"
_PATIENCE_S = 1.0
_FILE_CERTIFICATE = "file-cert:"
_FILE_ROOT = "file-root:"
_CREDENTIAL = "kubernetes://"
_CA_SUFFIX = "-cacert"


def file_certificate(certificate: str, key: str) -> str:
    """The secret of a pair of files."""
    return f"{_FILE_CERTIFICATE}{certificate}~{key}"


def file_root(roots: str) -> str:
    """The secret of a file of trusted certificates."""
    return f"{_FILE_ROOT}{roots}"


def credential(name: str) -> str:
    """The secret of a `credentialName`."""
    return f"{_CREDENTIAL}{name}"


def credential_root(name: str) -> str:
    """The secret of the trusted certificates that belong to a `credentialName`."""
    base = name if name.endswith(_CA_SUFFIX) else f"{name}{_CA_SUFFIX}"
    return f"{_CREDENTIAL}{base}"


def client_certificate(identity: str) -> str:
    """The secret of an identity's certificate for its calls; that for its servers is called as the
    identity itself.
    """
    # Not one name for both: of two watches of a name on one stream Envoy answers only the first.
    return f"{_CLIENT}{identity}"


def sds(name: str) -> secret_pb2.SdsSecretConfig:
    """A reference to a secret. A credential may not be there: it then keeps nothing but its own
    hosts from working.
    """
    # 0 waits without end: what needs the mesh's own certificates takes no connection before it has
    # them, and there is no moment of plaintext.
    patience = _PATIENCE_S if name.startswith(_CREDENTIAL) else 0
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads(patience=patience))


def issued_certificate(chain: bytes, key: bytes) -> secret_pb2.Secret:
    """The workload's own certificate, in PEM with its chain, and its key."""
    return inline_pair(WORKLOAD_CERTIFICATE, chain, key)


def issued_certificates(
    identity: str, chain: bytes, key: bytes
) -> list[secret_pb2.Secret]:
    """The certificate of one of the workloads that a proxy serves: for its servers, and for its
    calls.
    """
    names = (identity, client_certificate(identity))
    return [inline_pair(name, chain, key) for name in names]


def trusted_roots(roots: bytes) -> secret_pb2.Secret:
    """The mesh's roots, in PEM: what the certificates of peers are verified against."""
    return inline_roots(MESH_ROOT, roots)


def named_credential(secret: str) -> str:
    """The `credentialName` that a secret stands for; empty if it stands for something else."""
    return (
        secret.removeprefix(_CREDENTIAL).rpartition("/")[2]
        if secret.startswith(_CREDENTIAL)
        else ""
    )


def inline_pair(name: str, certificate: bytes, key: bytes) -> secret_pb2.Secret:
    """A certificate with its key, in PEM."""
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = certificate
    secret.tls_certificate.private_key.inline_bytes = key
    return secret


def inline_roots(name: str, roots: bytes) -> secret_pb2.Secret:
    """Trusted certificates, in PEM."""
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = roots
    return secret


def system_roots(name: str) -> secret_pb2.Secret:
    """The roots of the proxy's system, as a secret of that name."""
    return _roots(name, SYSTEM_ROOTS)


def file_secrets(names: Iterable[str]) -> list[secret_pb2.Secret]:
    """The secrets that say where files are; those that the mesh's own authority issues are not
    among them.
    """
    made = (_secret(name) for name in sorted(set(names)))
    return [secret for secret in made if secret is not None]


def _secret(name: str) -> secret_pb2.Secret | None:
    if name.startswith(_FILE_CERTIFICATE):
        certificate, _, key = name.removeprefix(_FILE_CERTIFICATE).partition("~")
        return _pair(name, certificate, key)
    if name.startswith(_FILE_ROOT):
        roots = name.removeprefix(_FILE_ROOT)
        return _roots(name, SYSTEM_ROOTS if roots == "system" else roots)

    if name.startswith(_CREDENTIAL):
        folder = name.removeprefix(_CREDENTIAL).rpartition("/")[2]
        # No name leads out of the folder of credentials.
        if folder in {"", ".", ".."}:
            return None
        if folder.endswith(_CA_SUFFIX):
            return _roots(
                name, f"{CREDENTIALS_DIR}/{folder.removesuffix(_CA_SUFFIX)}/ca.crt"
            )
        return _pair(
            name,
            f"{CREDENTIALS_DIR}/{folder}/tls.crt",
            f"{CREDENTIALS_DIR}/{folder}/tls.key",
        )

    return None


def _pair(name: str, certificate: str, key: str) -> secret_pb2.Secret:
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.filename = certificate
    secret.tls_certificate.private_key.filename = key
    # The folder, not the files: Envoy then reads certificate and key as a pair.
    secret.tls_certificate.watched_directory.CopyFrom(_folder(certificate))
    return secret


def _roots(name: str, file: str) -> secret_pb2.Secret:
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.filename = file
    if file != SYSTEM_ROOTS:
        secret.validation_context.watched_directory.CopyFrom(_folder(file))
    return secret


def _folder(file: str) -> base_pb2.WatchedDirectory:
    return base_pb2.WatchedDirectory(path=str(PurePosixPath(file).parent))
