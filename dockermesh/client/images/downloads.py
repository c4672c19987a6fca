"""What the builds need from outside, downloaded before they start: wheels, what Debian has of
Consul and Prometheus, and iptables where the base image has none.

This machine downloads if it can, else a container of the base image does; builds then need no
network, and see no setting of this machine. What neither could get, the build tries itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dockermesh.client.images import reachable
from dockermesh.client.images.host_settings import (
    apt_proxy,
    container_files,
    debian_sources,
    pip_environment,
    pip_sources,
    proxies,
)
from dockermesh.client.images.mesh_images import Say
from dockermesh.client.images.reachable import HURRY, HURRY_APT, answers
from dockermesh.client.images.sources import checkout, image_files
from dockermesh.docker.image_store import ImageStore
from dockermesh.errors import EngineError

_OLDEST_GLIBC = 5
_UNREACHED = 75
"""The exit status of the script `download` where nothing answers."""
UNREACHED = (
    "neither this machine nor its containers reached the packages: see pip's settings (`pip config"
    " list`), apt's, and HTTPS_PROXY; or take built images: DOCKERMESH_IMAGES_FROM=registry/prefix,"
    " `docker load`"
)
_SCRIPTS = ("debian-mirrors", "debian-package", "prometheus/unpacked", "download")
_PROBE = (
    "import json, platform, shutil, sys\n"
    "print(json.dumps([platform.machine(), platform.libc_ver()[1], list(sys.version_info[:2]),"
    " bool(shutil.which('iptables-restore'))]))"
)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What downloads must fit: the base image's machine, glibc (`2.36`), Python, and whether it has
    iptables.
    """

    machine: str
    glibc: str
    python: tuple[int, int]
    has_iptables: bool


def look_at(store: ImageStore, base: str) -> BaseFacts:
    """Ask the base image. Raises EngineError if it has no Python 3.11 on glibc."""
    status, said, _ = store.run(base, ["python3", "-c", _PROBE])
    try:
        machine, glibc, python, has_iptables = json.loads(said)
    except ValueError:
        status = status or 1

    if status or tuple(python) < (3, 11) or not glibc:
        raise EngineError(
            f"Python 3.11 or later on glibc is needed to build on it\n{said.strip()}",
            where=base,
            fix="name another: BASE_IMAGE=python:3.11-slim-bookworm",
        )

    return BaseFacts(machine, glibc, (python[0], python[1]), bool(has_iptables))


def download(
    store: ImageStore, base: str, facts: BaseFacts, names: Sequence[str], step: Say
) -> Path:
    """Download what these images need; returns the folder that has it, in `build` of a checkout
    or in the user's cache.
    """
    folder = _folder()
    wanted = list(_wanted(folder, facts, names))

    for part in wanted:
        if part in _ON_HOST and _ON_HOST[part](folder, facts, step):
            continue
        step(f"downloading {part} in a container")
        _in_container(store, base, folder, part, step)

    return folder


def _wanted(folder: Path, facts: BaseFacts, names: Sequence[str]) -> Iterator[str]:
    if {"control-plane", "proxy"} & set(names) and _key(
        folder / "wheels.key"
    ) != _wheels_key(facts):
        yield "wheels"
    for part, package in _DEBIAN.items():
        is_there = (folder / part / package.file).is_file() and _is_local(facts)
        if part in names and not is_there:
            yield part
    if "pod" in names and not facts.has_iptables:
        yield "debs"


def _folder() -> Path:
    tree = checkout()
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dockermesh"
    )
    folder = tree / "build" if tree is not None else cache

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"downloads have no place: {error.strerror}",
            where=str(folder),
            fix="name a folder that you may write: XDG_CACHE_HOME=/path",
        ) from error

    return folder


def _is_local(facts: BaseFacts) -> bool:
    return platform.machine().replace("arm64", "aarch64") == facts.machine


# wheels
# --------------------------------------------------------------------------------------------------


def _requirements() -> dict[str, Path]:
    """The lock files of the images that have wheels."""
    return {
        name: image_files() / name / "requirements.txt"
        for name in ("control-plane", "proxy")
    }


def _wheels_key(facts: BaseFacts) -> str:
    locked = "".join(file.read_text() for file in _requirements().values())
    text = f"{locked}{facts.machine}{facts.glibc}{facts.python}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(file: Path) -> str:
    has_wheels = file.with_suffix("").is_dir() and file.is_file()
    return file.read_text().strip() if has_wheels else ""


def _pip() -> tuple[str, ...]:
    """How pip runs here; empty if it does not. Tools' own environments often have none."""
    if importlib.util.find_spec("pip") is not None:
        return (sys.executable, "-m", "pip")
    for command in (("pip",), ("pip3",), ("uv", "tool", "run", "pip")):
        if shutil.which(command[0]):
            return command
    return ()


def _wheels_on_host(folder: Path, facts: BaseFacts, step: Say) -> bool:
    command = _pip()
    if not command:
        return False

    step("downloading wheels")
    # Under another name until all are there, and by process: two may download at once.
    draft = folder / f"wheels.{os.getpid()}"
    newest = int(facts.glibc.split(".")[1])
    # pip takes a --platform by the letter: that of an older glibc has to be named as well.
    tags = [
        f"manylinux_2_{n}_{facts.machine}" for n in range(newest, _OLDEST_GLIBC - 1, -1)
    ]
    platforms = [
        f"--platform={tag}" for tag in (*tags, f"manylinux2014_{facts.machine}")
    ]
    python = f"--python-version={'.'.join(map(str, facts.python))}"
    wanted = [f"--requirement={file}" for file in _requirements().values()]
    options = [
        "-q",
        "--disable-pip-version-check",
        # pip insists on it where --platform is given: a source could not be built for another
        # machine.
        "--only-binary=:all:",
        "--implementation=cp",
    ]

    try:
        done = _run(
            [
                *command,
                "download",
                *options,
                python,
                *platforms,
                "-d",
                str(draft),
                *wanted,
            ],
            "wheels",
        )
        if done.returncode:
            step(f"pip cannot download the wheels here: {_last(done.stderr)}")
            return False

        _keep_wheels(folder, draft, facts)
    finally:
        shutil.rmtree(draft, ignore_errors=True)

    return True


def _keep_wheels(folder: Path, draft: Path, facts: BaseFacts) -> None:
    key = folder / "wheels.key"
    # Away first and back last: a folder that is half there is never taken for whole.
    key.unlink(missing_ok=True)
    shutil.rmtree(folder / "wheels", ignore_errors=True)
    draft.rename(folder / "wheels")
    key.write_text(f"{_wheels_key(facts)}\n")


# out of Debian's packages
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Package:
    """What is made of a package of Debian's: its `file`, by this script and its arguments."""

    title: str
    file: str
    script: tuple[str, ...]


_DEBIAN = {
    "consul": _Package(
        "Consul", "consul", ("debian-package", "bullseye", "consul", "usr/bin/consul")
    ),
    "prometheus": _Package("Prometheus", "prometheus.tar", ("prometheus/unpacked",)),
}


def _from_debian(part: str, folder: Path, facts: BaseFacts, step: Say) -> bool:
    package = _DEBIAN[part]
    if not _is_local(facts) or shutil.which("apt-get") is None:
        return False
    step(f"downloading {package.title}")
    script, *arguments = package.script
    target = str(folder / part / package.file)
    done = _run(["sh", str(image_files() / script), *arguments, target], part)
    if done.returncode:
        step(f"{package.title} cannot be downloaded here: {_last(done.stderr)}")
    return done.returncode == 0


# by a container
# --------------------------------------------------------------------------------------------------


def _in_container(
    store: ImageStore, base: str, folder: Path, part: str, step: Say
) -> None:
    files = container_files(os.environ) | {
        **{f"{name}.txt": file.read_bytes() for name, file in _requirements().items()},
        **{Path(n).name: (image_files() / n).read_bytes() for n in _SCRIPTS},
        "reachable.py": Path(reachable.__file__).read_bytes(),
    }
    urls, proxy = _sources(part)
    files["sources"] = " ".join([proxy] if proxy else urls).encode()
    files["hurry.conf"] = HURRY_APT.encode()
    status, said, archive = store.run(
        base,
        ["sh", "/in/download", part],
        files=files,
        environment=proxies(os.environ) | {f"HURRY_{k}": v for k, v in HURRY.items()},
        result=f"/out/{part}",
    )
    if status == _UNREACHED:
        raise EngineError(
            f"{part} cannot be downloaded: nothing answers, here or in a container:"
            f" {_last(said)}",
            where=", ".join(urls),
            fix=UNREACHED,
        )
    if status:
        step(f"a container cannot download {part} either: {_last(said)}")
        return

    draft = folder / f"fetched.{os.getpid()}"
    try:
        _unpack(archive, draft)
        if part == "wheels":
            _keep_wheels(folder, draft, look_at(store, base))
        else:
            shutil.rmtree(folder / part, ignore_errors=True)
            draft.rename(folder / part)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unpack(archive: bytes, folder: Path) -> None:
    """The files of a flat folder, by their names alone: an archive may name any path."""
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as content:
        for member in content:
            found = content.extractfile(member) if member.isfile() else None
            if found is not None:
                target = folder / Path(member.name).name
                target.write_bytes(found.read())
                target.chmod(member.mode & 0o755)


def _run(command: list[str], part: str) -> subprocess.CompletedProcess[str]:
    environment = pip_environment(os.environ)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        if not _answers(part):
            file.write(HURRY_APT)
            file.flush()
            environment |= {**HURRY, "APT_CONFIG": file.name}
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _sources(part: str) -> tuple[list[str], str]:
    """Where a part comes from, and the proxy in between."""
    if part == "wheels":
        return pip_sources(os.environ)
    return debian_sources(), apt_proxy()


def _answers(part: str) -> bool:
    urls, proxy = _sources(part)
    return answers(urls, os.environ, proxy)


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line]
    return (telling or lines or ["no reason was given"])[-1][:200]


_ON_HOST = {"wheels": _wheels_on_host} | {
    part: partial(_from_debian, part) for part in _DEBIAN
}
