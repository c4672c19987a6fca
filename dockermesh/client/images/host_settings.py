"""How this machine reaches packages: what its pip, apt and environment say about mirrors, proxies
and CAs.

They are for downloads only, outside of builds: a container that downloads gets them by files of its
own, and is removed with them.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from dockermesh.client.images.sources import image_files

_PIP_KEYS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
)
_PROXIES = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
_CA_VARIABLES = (
    "DOCKERMESH_CA_BUNDLE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
_PYPI = "https://pypi.org/simple"
_DEBIAN = "http://deb.debian.org/debian"
_UV_AS_PIP = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX_URL": "PIP_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
}


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for this machine's pip: uv's indexes count where pip has none of its own."""
    found = dict(environ)
    for theirs, name in _UV_AS_PIP.items():
        if environ.get(theirs):
            found.setdefault(name, environ[theirs])
    bundle = environ.get("DOCKERMESH_CA_BUNDLE")
    return found | ({"PIP_CERT": bundle} if bundle else {})


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What pip's files and variables say, variables last; paths of this machine are left out."""
    found: dict[str, str] = {}
    for file in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (OSError, configparser.Error):
            continue

        for section in ("global", "download"):
            found |= dict(parser[section]) if parser.has_section(section) else {}

    variables = pip_environment(environ)
    for key in (*_PIP_KEYS, "cert"):
        name = f"PIP_{key.replace('-', '_').upper()}"
        found |= {key: variables[name]} if variables.get(name) else {}

    return found


def pip_sources(environ: Mapping[str, str]) -> tuple[list[str], str]:
    """Where pip looks for packages, and the proxy that it is told to take, if any."""
    found = pip_settings(environ)
    urls = [found.get("index-url") or _PYPI, *found.get("extra-index-url", "").split()]
    return urls, found.get("proxy", "")


def debian_sources() -> list[str]:
    """Where Debian's packages come from: this machine's mirrors, else Debian's own."""
    return _said(["sh", str(image_files() / "debian-mirrors")]) or [_DEBIAN]


def apt_proxy() -> str:
    """The proxy that apt is told to take; empty if none is named."""
    return next((value for _, value in _apt_proxies({}) if value != "DIRECT"), "")


def container_files(environ: Mapping[str, str]) -> dict[str, bytes]:
    """The same for a container that downloads: `pip.conf`, `apt.conf`, `mirror` and `ca.pem`."""
    pip = pip_settings(environ)
    lines = [
        f"{key} = {value}" for key in _PIP_KEYS if (value := _remote(pip.get(key, "")))
    ]
    apt = [f'{key} "{value}";' for key, value in _apt_proxies(environ)]
    files = {"mirror": debian_mirror().encode()}
    authorities = _authorities(environ, pip)

    if authorities:
        files["ca.pem"] = authorities
        lines.append("cert = /in/ca.pem")
        apt.append('Acquire::https::CAInfo "/in/ca.pem";')

    files["pip.conf"] = "\n".join(["[global]", *lines, ""]).encode()
    files["apt.conf"] = "\n".join([*apt, ""]).encode()
    return files


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables that are set."""
    return {name: environ[name] for name in _PROXIES if environ.get(name)}


def debian_mirror() -> str:
    """Where this machine takes Debian's packages from; an empty text where it is no Debian."""
    return next(iter(_said(["sh", str(image_files() / "debian-mirrors")])), "")


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    home = Path(environ.get("HOME") or "/nonexistent")
    configured = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(folder) / "pip/pip.conf"
    yield from (
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        configured / "pip/pip.conf",
    )
    if named:
        yield Path(named)


def _remote(value: str) -> str:
    """The words of a value that mean the same in a container: no files of this machine."""
    return " ".join(
        word for word in value.split() if not word.startswith(("/", ".", "file:"))
    )


def _apt_proxies(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for line in _said(["apt-config", "dump", "--format", "%f %v%n"]):
        key, _, value = line.partition(" ")
        if value and key.lower() in {"acquire::http::proxy", "acquire::https::proxy"}:
            yield key, value


def _authorities(environ: Mapping[str, str], pip: Mapping[str, str]) -> bytes:
    named = [environ.get(name, "") for name in _CA_VARIABLES]
    # What is said to us or to pip counts before what is said to other tools.
    for path in (*named[:2], pip.get("cert", ""), *named[2:]):
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    return b""


def _said(command: list[str]) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.splitlines() if done.returncode == 0 else []
