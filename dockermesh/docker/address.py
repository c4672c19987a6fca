"""Which engine is meant, as the Docker CLI decides it, so that the SDK, Compose and every command
talk to the same one.

`DOCKER_HOST` wins over `DOCKER_CONTEXT`, that over `currentContext` in the CLI's config.json, and
that over the default socket; `-H` and `--context` are put into the environment before anything
reads it. Invariant: what the Docker CLI would refuse is an error here, never another engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dockermesh.errors import InputError, UsageError

DEFAULT_SOCKET = "/var/run/docker.sock"
DEFAULT_CONTEXT = "default"
_SCHEMES = frozenset({"unix", "tcp", "ssh", "npipe", "fd"})
_PORTS = {False: 2375, True: 2376}
"""The engine's port where none is given, without and with TLS."""
_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>[0-9]*))?")


@dataclass(frozen=True, slots=True)
class EngineTls:
    """How TLS is spoken to an engine: the CA that it is verified against (the machine's without
    one), and what this side shows.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where the engine is: `unix:///var/run/docker.sock`, `tcp://docker:2376`, `ssh://me@host`.

    `source` says what decided it: "DOCKER_HOST", "context prod" or "default"; `context` is the
    context's name, empty where none was named.
    """

    url: str
    tls: EngineTls | None = None
    source: str = DEFAULT_CONTEXT
    context: str = ""

    @property
    def host(self) -> str:
        """The name or address of the engine's host, as this side calls it; empty for a socket."""
        return "" if self.is_socket else urlsplit(self.url).hostname or ""

    @property
    def is_socket(self) -> bool:
        """Whether it is reached by a socket or pipe of this machine."""
        return self.url.partition("://")[0] in {"unix", "npipe", "fd"}

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over the network."""
        return not self.is_socket

    @property
    def socket_path(self) -> str:
        """The unix socket's path; empty for any other transport."""
        return (
            self.url.removeprefix("unix://") if self.url.startswith("unix://") else ""
        )

    @property
    def selector(self) -> str:
        """The options with which every command reaches this engine."""
        return f"--context {self.context}" if self.context else f"-H {self.url}"

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def resolve_engine(environ: Mapping[str, str] | None = None) -> EngineAddress:
    """The engine that this environment means.

    Raises InputError for a context that does not exist, a file that cannot be read, and what is no
    address.
    """
    environ = os.environ if environ is None else environ
    # An empty variable is an unset one, as for the Docker CLI.
    if environ.get("DOCKER_HOST"):
        return _from_host(environ)

    named, file = (
        environ.get("DOCKER_CONTEXT", ""),
        config_folder(environ) / "config.json",
    )
    name = named or _current_context(file)
    # `default` is in no store of contexts: it is what DOCKER_HOST and DOCKER_TLS* say.
    if name in {"", DEFAULT_CONTEXT}:
        return _from_host(environ)

    return _from_context(
        config_folder(environ), name, "DOCKER_CONTEXT" if named else str(file)
    )


def choose_engine(
    environ: MutableMapping[str, str], hosts: Sequence[str] = (), context: str = ""
) -> None:
    """Put what `-H` and `--context` say into an environment. Raises UsageError for both together,
    and for two hosts, as Docker does.
    """
    if hosts and context:
        raise UsageError(
            "-H and --context contradict each other",
            fix="name the engine by one of them",
        )

    if len(hosts) > 1:
        raise UsageError(f"two engines: {', '.join(hosts)}", fix="give -H once")
    if context:
        environ["DOCKER_CONTEXT"] = context
        # The default context is the one that DOCKER_HOST belongs to.
        if context != DEFAULT_CONTEXT:
            environ.pop("DOCKER_HOST", None)
    elif hosts:
        # An empty -H is the default engine, whatever context is the current one.
        environ["DOCKER_HOST"] = hosts[0] or f"unix://{DEFAULT_SOCKET}"
        environ.pop("DOCKER_CONTEXT", None)


def config_folder(environ: Mapping[str, str]) -> Path:
    """The Docker CLI's folder: `DOCKER_CONFIG`, else `~/.docker`."""
    if environ.get("DOCKER_CONFIG"):
        return Path(environ["DOCKER_CONFIG"])
    try:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError:  # a user without a home, as containers have with --user
        home = Path()
    return home / ".docker"


# the default engine
# --------------------------------------------------------------------------------------------------


def _from_host(environ: Mapping[str, str]) -> EngineAddress:
    tls = _tls_of(environ)
    text = environ.get("DOCKER_HOST", "")
    source = "DOCKER_HOST" if text else DEFAULT_CONTEXT
    return EngineAddress(parse_host(text, tls=tls is not None), tls, source)


def parse_host(text: str, *, tls: bool = False) -> str:
    """An address with the Docker CLI's defaults filled in. Raises InputError if it is none."""
    text = text.strip()
    if not text:
        # Who asks for TLS means TCP: on the socket there is none.
        return f"tcp://localhost:{_PORTS[True]}" if tls else f"unix://{DEFAULT_SOCKET}"

    scheme, separator, rest = text.partition("://")
    if not separator:
        # What looks like a file is one, as for Docker CLIs newer than 28.
        scheme, rest = ("unix" if text.startswith(("/", "./")) else "tcp"), text

    if scheme not in _SCHEMES or "://" in rest:
        raise _no_address(text)
    if scheme == "tcp":
        return _tcp(rest, text)
    if scheme == "unix":
        return f"unix://{rest or DEFAULT_SOCKET}"

    return f"{scheme}://{rest}"


def _tcp(rest: str, text: str) -> str:
    authority, slash, path = rest.partition("/")
    found = _PORT.fullmatch(authority)
    if found is None or (found["host"].startswith("[") and found["port"] is None):
        raise _no_address(text)
    # Also with TLS it is 2375: the CLI takes 2376 only where no address is given at all.
    return f"tcp://{found['host'] or 'localhost'}:{found['port'] or _PORTS[False]}{slash}{path}"


def _no_address(text: str) -> InputError:
    return InputError(
        f"{text!r} is no address of an engine",
        where="DOCKER_HOST",
        fix="write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST",
    )


def _tls_of(environ: Mapping[str, str]) -> EngineTls | None:
    # Any text means yes, `0` too: the CLI only looks whether there is one.
    verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    if not verify and not environ.get("DOCKER_TLS"):
        return None

    folder = Path(environ.get("DOCKER_CERT_PATH") or config_folder(environ))
    authority = folder / "ca.pem"

    # Without a CA of its own, the authorities of this machine would vouch for the engine.
    if not _is_file(authority):
        raise InputError(
            "TLS is asked for, but the CA's certificate is not there",
            where=str(authority),
            fix="set DOCKER_CERT_PATH to the folder of ca.pem, cert.pem and key.pem",
        )

    return _with_files(folder, verify=verify)


def _with_files(folder: Path, *, verify: bool) -> EngineTls:
    ca, certificate, key = (
        file if _is_file(file) else None
        for file in (folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    )
    if certificate is None or key is None:
        certificate = key = None
    return EngineTls(ca, certificate, key, verify)


# contexts
# --------------------------------------------------------------------------------------------------


def _current_context(file: Path) -> str:
    found = _read_json(file, "set DOCKER_HOST, or correct the file")
    name = found.get("currentContext") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def _from_context(folder: Path, name: str, named_by: str) -> EngineAddress:
    # The store's folders are called by the digest, so that any name is a valid one.
    digest = hashlib.sha256(name.encode()).hexdigest()
    file = folder / "contexts" / "meta" / digest / "meta.json"
    again = f"`docker context ls` lists what is there; {named_by} names this one"
    meta = _read_json(file, again)
    if meta is None:
        raise InputError(
            f"there is no Docker context {name!r}", where=str(file), fix=again
        )

    try:
        endpoint = meta["Endpoints"]["docker"]
        host, skip = (
            str(endpoint.get("Host") or ""),
            bool(endpoint.get("SkipTLSVerify")),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the Docker context {name!r} has no Docker endpoint",
            where=str(file),
            fix=f"`docker context update {name} --docker host=URL`",
        ) from error

    tls = _with_files(folder / "contexts" / "tls" / digest / "docker", verify=not skip)
    # A context's address is tcp:// either way: its files tell whether TLS is spoken.
    has_tls = skip or any((tls.ca, tls.certificate))
    url = host or f"unix://{DEFAULT_SOCKET}"

    return EngineAddress(url, tls if has_tls else None, f"context {name}", name)


def _read_json(file: Path, fix: str) -> Any:
    """A file's content; None if there is no file, or its folder is closed to us."""
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(
            f"this is no JSON ({error})", where=str(file), fix=fix
        ) from error
    except OSError as error:
        # A home that is somebody else's (as with `sudo -u`) holds no settings of ours.
        if isinstance(error, PermissionError) and not os.access(file.parent, os.X_OK):
            return None
        raise InputError(
            f"it cannot be read: {error.strerror}",
            where=str(file),
            fix=f"`chmod u+r {file}`",
        ) from error


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:
        return False
