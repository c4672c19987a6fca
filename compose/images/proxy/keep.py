"""Keeps what Envoy last accepted, so that a restart finds it while no control plane answers.

Run by `proxy`, with nothing but Python's standard library:

    keep.py save RUN              ask Envoy's admin, write RUN/kept.json.gz
    keep.py bootstrap RUN FILE    that, and RUN/envoy.json, as a bootstrap without xDS
    keep.py probe RUN FILE        a bootstrap that asks for clusters, and serves nobody
    keep.py await SOCKET SECONDS  wait until the Envoy with this admin is ready

Invariant: where a part of what Envoy uses is not to be had, the file of before is removed: it may
allow more.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kept

Json = dict[str, Any]


class _Admin(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("admin", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(path: str, page: str, timeout: float = 10) -> tuple[int, bytes]:
    admin = _Admin(path, timeout)
    try:
        admin.request("GET", page)
        answer = admin.getresponse()
        return answer.status, answer.read()
    finally:
        admin.close()


def _read(path: Path) -> Json:
    found: Json = json.loads(path.read_bytes())
    return found


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _compact(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Keeper:
    """What is in the volume that the pod and its proxy share."""

    run: Path

    @property
    def file(self) -> Path:
        """What was kept."""
        return self.run / "kept.json.gz"

    def save(self) -> None:
        """Raises NotKept; OSError where Envoy does not answer."""
        admin = str(self.run / "admin.sock")
        status, dump = _ask(admin, "/config_dump?include_eds")
        _, certificates = _ask(admin, "/certs")
        if status != 200:
            raise OSError(f"Envoy answered {status}")

        expires, whose = kept.first_expiry(json.loads(certificates))
        content = {
            "saved": int(time.time()),
            "expires": expires,
            "whose": whose,
            "run": kept.run_of(self._bootstrap()),
            "resources": kept.kept_resources(json.loads(dump)),
        }
        try:
            _write(self.file, gzip.compress(_compact(content), 6))
        except OSError as error:
            raise kept.NotKept(f"{self.file}: {error.strerror}") from error

    def bootstrap(self, target: Path) -> None:
        """Prints when it was kept, and when whose certificate expires. Raises NotKept."""
        own = self._bootstrap()
        try:
            content = json.loads(gzip.decompress(self.file.read_bytes()))
        except (gzip.BadGzipFile, EOFError) as error:
            raise kept.NotKept(f"{self.file} is damaged: {error}") from error
        if content["run"] != kept.run_of(own):
            raise kept.NotKept("it is of an earlier run of the pod")

        nothing = self.run / "no-secrets.json"
        _write(nothing, b'{"resources": []}\n')
        made = kept.kept_bootstrap(own, content["resources"], str(nothing))
        _write(target, _compact(made))
        print(content["saved"], content["expires"], content["whose"])

    def probe(self, target: Path) -> None:
        """Its Envoy shows what the control plane answers."""
        made = kept.probe_bootstrap(self._bootstrap(), str(self.run / "probe.sock"))
        _write(target, _compact(made))

    def forget(self) -> None:
        """What was kept may allow more than what is in force."""
        self.file.unlink(missing_ok=True)

    def _bootstrap(self) -> Json:
        return _read(self.run / "envoy.json")


def await_ready(path: str, seconds: float) -> bool:
    """Whether the Envoy with this admin became ready in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if _ask(path, "/ready", timeout=2)[0] == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass  # it is starting
        time.sleep(0.05)
    return False


def main(verb: str, where: str, rest: list[str]) -> int:
    """0: done; 1: cannot be done now; 3: cannot be kept, and what was kept is gone."""
    if verb == "await":
        return 0 if await_ready(where, float(rest[0])) else 1
    keeper = Keeper(Path(where))
    try:
        if verb == "save":
            keeper.save()
        elif verb == "bootstrap":
            keeper.bootstrap(Path(rest[0]))
        else:
            keeper.probe(Path(rest[0]))
    except (kept.NotKept, KeyError, ValueError, TypeError, AttributeError) as error:
        keeper.forget()
        is_known = isinstance(error, kept.NotKept)
        reason = error if is_known else f"Envoy's answer is not understood: {error!r}"
        print(
            f"dockermesh proxy: what Envoy has is not kept for a restart without a"
            f" control plane: {reason}",
            file=sys.stderr,
        )
        return 3
    except (OSError, http.client.HTTPException) as error:
        print(f"dockermesh proxy: {verb}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
