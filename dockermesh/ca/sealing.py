"""The CA's material encrypted at rest, so that it may lie in Consul, where many can read.

AES-256-GCM under a key that never leaves the control planes: a random one in a file of mode 0600,
or one derived by scrypt from a passphrase that the user keeps in a file, which several control
planes can then share. Invariant: what was sealed with another key, or changed since, cannot be
opened; that is an error, never an empty CA.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from dockermesh.ca.certificates import AuthorityError
from dockermesh.runtime.files import PRIVATE, replace_file

log = structlog.get_logger(__name__)

_CONTEXT = b"dockermesh CA 1"
_KEY_BYTES = 32
_SHORTEST_PASSPHRASE = 16
_COST = 2**15
"""scrypt's N; with r = 8 about 0.1 s and 32 MB, once per control plane."""


class Seal:
    """Seals and opens."""

    def __init__(self, secret: bytes, *, is_passphrase: bool, where: str) -> None:
        self._secret = secret
        self._is_passphrase = is_passphrase
        self._where = where
        self._derived: dict[bytes, bytes] = {}

    def close(self, content: bytes) -> str:
        """The content sealed, as text."""
        salt = (
            # A salt whose key is known already: another would cost another run of scrypt.
            next(iter(self._derived), secrets.token_bytes(16))
            if self._is_passphrase
            else b""
        )
        # Drawn for each: two texts under one nonce give away GCM's key of authentication.
        nonce = secrets.token_bytes(12)
        # Bound to what it is for: nothing else that this key seals could be put in its place.
        data = AESGCM(self._key(salt)).encrypt(nonce, content, _CONTEXT)
        parts = {"salt": salt, "nonce": nonce, "data": data}
        return json.dumps(
            {"v": 1}
            | {name: base64.b64encode(part).decode() for name, part in parts.items()}
        )

    def open(self, sealed: str, where: str) -> bytes:
        """What was sealed. `where` is where it was found.

        Raises AuthorityError when it is damaged, or was sealed with another key.
        """
        try:
            parts = json.loads(sealed)
            salt, nonce, data = (
                base64.b64decode(parts[name], validate=True)
                for name in ("salt", "nonce", "data")
            )
            return AESGCM(self._key(salt)).decrypt(nonce, data, _CONTEXT)
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(
                "it is damaged", where, "restore it from a backup"
            ) from error
        except InvalidTag as error:
            reason = (
                f"it is damaged, or sealed with another key than that in {self._where}"
            )
            raise _unreadable(
                reason,
                where,
                f"restore {self._where}, or give all control planes the same one",
            ) from error

    def _key(self, salt: bytes) -> bytes:
        if not self._is_passphrase:
            return self._secret
        if salt not in self._derived:
            self._derived[salt] = Scrypt(
                salt=salt, length=_KEY_BYTES, n=_COST, r=8, p=1
            ).derive(self._secret)
        return self._derived[salt]


def open_seal(
    passphrase_file: Path | None, key_file: Path, *, may_create: bool
) -> Seal:
    """The seal of a passphrase file, or of our own key file, which is made if there is none and
    `may_create`.

    Raises AuthorityError when the file cannot be used.
    """
    if passphrase_file is not None:
        # Editors and `echo` end a file with a line break, which another host's copy may not have.
        secret = private_bytes(
            passphrase_file, "the passphrase of the CA", is_ours=False
        ).strip()
        if len(secret) < _SHORTEST_PASSPHRASE:
            raise AuthorityError(
                f"the passphrase of the CA is shorter than {_SHORTEST_PASSPHRASE} bytes",
                where=str(passphrase_file),
                fix="write a random one into the file: `openssl rand -hex 32`",
            )
        return Seal(secret, is_passphrase=True, where=str(passphrase_file))

    # Never beside a CA that exists: what is sealed with a lost key would be lost by this.
    if not key_file.exists() and may_create:
        try:
            key_file.parent.mkdir(parents=True, exist_ok=True)
            write_private(key_file, secrets.token_hex(_KEY_BYTES).encode())
        except OSError as error:
            raise unsaved(key_file, error) from error

    text = private_bytes(key_file, "the key that seals the CA", is_ours=True).strip()
    try:
        key = bytes.fromhex(text.decode())
        if len(key) != _KEY_BYTES:
            raise ValueError
    except ValueError:
        raise AuthorityError(
            "the key that seals the CA is damaged",
            where=str(key_file),
            fix="restore the file from a backup",
        ) from None

    return Seal(key, is_passphrase=False, where=str(key_file))


def private_bytes(file: Path, what: str, *, is_ours: bool) -> bytes:
    """The content of a file that nobody else may read.

    One of ours that others can read is closed again, with a warning; one of the user's is refused.
    Raises AuthorityError when it cannot be read, or others can.
    """
    try:
        # Before it is read: a secret that others could read may be known already.
        mode = file.stat().st_mode & 0o777
        if mode & 0o077 and is_ours:
            log.warning(
                "a secret was readable for others; its mode is 0600 again",
                file=str(file),
                mode=f"{mode:04o}",
            )
            file.chmod(0o600)
        elif mode & 0o077:
            raise AuthorityError(
                f"{what} is readable for others (mode {mode:04o})",
                where=str(file),
                fix=f"run `chmod 600 {file}`",
            )

        return file.read_bytes()
    except OSError as error:
        fix = "restore the file from a backup; without it the CA cannot be opened"
        if isinstance(error, PermissionError):
            fix = (
                "give it to the user that runs the control plane (in the mesh's container"
                " root, without capabilities)"
            )
        raise AuthorityError(
            f"{what} cannot be read: {error.strerror}", where=str(file), fix=fix
        ) from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file that was never readable by anybody else, and that exists in full or not at
    all.
    """
    replace_file(path, content, PRIVATE, is_durable=True)


def _unreadable(reason: str, where: str, fix: str) -> AuthorityError:
    return AuthorityError(f"the CA cannot be read: {reason}", where=where, fix=fix)


def unsaved(file: Path, error: OSError) -> AuthorityError:
    """The error for a file of the CA that cannot be written."""
    return AuthorityError(
        f"the CA cannot be saved: {error.strerror}",
        where=str(file),
        fix=(
            "make the folder writable and see that the disk has room, or name another one with"
            " --state-dir"
        ),
    )
