"""Certificates as a user has them: two PEM files in a folder."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """`tls.crt` and `tls.key` in a folder, and what is in them."""

    folder: Path
    certificate: str
    key: str

    @property
    def options(self) -> tuple[str, ...]:
        """How `kubectl create secret tls` is told of it."""
        return (
            "--key",
            str(self.folder / "tls.key"),
            "--cert",
            str(self.folder / "tls.crt"),
        )


def self_signed(folder: Path, name: str) -> Pair:
    """A new certificate for a DNS name."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout"
        " tls.key"
    )
    more = [
        "-out",
        "tls.crt",
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    subprocess.run(
        [*command.split(), *more], cwd=folder, check=True, capture_output=True
    )
    return Pair(
        folder, (folder / "tls.crt").read_text(), (folder / "tls.key").read_text()
    )
