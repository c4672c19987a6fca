"""The limiter by itself, in the place of `envoyproxy/ratelimit`: limits from files that it follows.

Invariant: a file that cannot be read changes nothing; what was read last goes on counting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from dockermesh.config.findings import Finding, Findings
from dockermesh.config.rules.rate_limit_config import read_limit_file
from dockermesh.errors import InputError
from dockermesh.limiter.process import Limiter
from dockermesh.model.rate_limits import LimitDomains
from dockermesh.translate.security.limit_files import domain_of_file

_LOOK_S = 1.0
_FILES = frozenset({".yaml", ".yml"})


def read_limits(paths: Iterable[Path]) -> LimitDomains:
    """The limits of files, and of those in directories. Raises InputError at the first mistake."""
    found = {}
    for path in _files(paths):
        findings = Findings()
        file = read_limit_file(_text(path), findings.at())
        if file is None:
            raise InputError(
                _first(findings.found), where=str(path), fix="correct the file"
            )
        if ("", file.domain) in found:
            raise InputError(
                f"domain {file.domain!r} is in another file, too",
                where=str(path),
                fix="write the limits of a domain into one file",
            )
        found["", file.domain] = domain_of_file(file)
    return found


def _first(findings: list[Finding]) -> str:
    return next(f.message for f in findings if f.is_error)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the file cannot be read: {error}", where=str(path), fix="correct the path"
        ) from error


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [p for p in inside if p.suffix in _FILES or p == path]
    return found


async def serve_limits(
    paths: list[Path], address: str, redis: str, say: Callable[[str], None]
) -> None:
    """Serve until it is cancelled. Raises DockermeshError when it cannot start."""
    limiter = Limiter(address, redis)
    limits = read_limits(paths)
    limiter.service.take(limits)
    limiter.server.listen()
    say(f"limits of {len(limits)} domains at {address}")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(limiter.run())
        tasks.create_task(limiter.server.run())
        tasks.create_task(_follow(limiter, paths, limits, say))


async def _follow(
    limiter: Limiter,
    paths: list[Path],
    limits: LimitDomains,
    say: Callable[[str], None],
) -> None:
    problem = ""
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            now = await asyncio.to_thread(read_limits, paths)
        except InputError as error:
            if str(error) != problem:
                say(str(error))
            problem = str(error)
            continue
        problem = ""
        if now != limits:
            limiter.service.take(now)
            say(f"limits of {len(now)} domains")
            limits = now
