"""The few files that a control plane keeps or hands out: the API token, and the mesh roots for
pods.
"""

from __future__ import annotations

from pathlib import Path
from secrets import token_urlsafe

from dockermesh.ca import private_bytes, write_private
from dockermesh.errors import DockermeshError
from dockermesh.runtime.files import FOR_ALL, replace_file


def open_token(file: Path) -> str:
    """The API's token, made at the first start and kept with mode 0600.

    Raises DockermeshError when the file cannot be used.
    """
    if file.exists():
        token = (
            private_bytes(file, "the API token", is_ours=True)
            .decode("utf-8", "replace")
            .strip()
        )
        if not token:
            raise DockermeshError(
                "the API token is empty",
                where=str(file),
                fix="delete the file: a new one is made",
            )
        return token

    # 256 bits: it is compared in constant time, and never guessed.
    token = token_urlsafe(32)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, token.encode())
    except OSError as error:
        raise DockermeshError(
            f"the API token cannot be saved: {error.strerror}",
            where=str(file),
            fix=(
                "make the folder writable and see that the disk has room, or name another one with"
                " --state-dir"
            ),
        ) from error

    return token


def publish_roots(folder: Path, roots: bytes) -> None:
    """Put the mesh roots where pods find them: readable for all, replaced in one step, which
    proxies notice.
    """
    file = folder / "root.pem"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Envoy reads its roots anew whenever the file is moved into place.
        if file.exists() and file.read_bytes() == roots:
            return
        replace_file(file, roots, FOR_ALL)
    except OSError as error:
        raise DockermeshError(
            f"the mesh roots cannot be written: {error.strerror}",
            where=str(file),
            fix=(
                "make the folder writable and see that the disk has room, or name another one with"
                " --trust-dir"
            ),
        ) from error
