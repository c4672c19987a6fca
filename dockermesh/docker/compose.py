"""The only code that runs `docker compose`: loading a project, and bringing one up or down.

Invariant: Compose itself decides what a file means (interpolation, `extends`, `include`, merging,
profiles); we read what it printed. The YAML output is read, not the JSON, because Compose's JSON
drops the `x-*` keys of services.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from dockermesh.docker.versions import parse_version
from dockermesh.errors import DockermeshError, EngineError, InputError
from dockermesh.runtime.timeline import span

INSTALL_COMPOSE = "install Compose v2: https://docs.docker.com/compose/install/linux/"
OLDEST = (2, 24)
"""The first Compose with `!override`, inline configs and `depends_on.required`."""
ALL_PROFILES = "*"
"""What Compose takes for every profile."""
_CHUNK = 65536
T = TypeVar("T")


class _Loader(yaml.CSafeLoader):
    """PyYAML's safe loader, for what Go's emitter leaves unquoted."""


def _plain_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


# Go writes the string "=" plainly, which YAML 1.1 gives a tag of its own that no safe loader can
# construct.
_Loader.add_constructor("tag:yaml.org,2002:value", _plain_text)
# A date can only come from the user's own `x-*`, and is kept as it was written.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _plain_text)


def compose_command(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """How Compose v2 is started here: the Docker plugin, else a standalone `docker-compose` of
    version 2.

    Raises EngineError if there is none, or only version 1.
    """
    environ = dict(os.environ if env is None else env)
    path = environ.get("PATH")
    seen = ""

    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0], path=path) is None:
            continue
        version = _version(command, environ)
        if version is None:
            continue
        if version >= OLDEST:
            return command
        seen = ".".join(map(str, version))

    if seen:
        wanted = ".".join(map(str, OLDEST))
        raise EngineError(
            f"Docker Compose {seen} is too old, {wanted} or newer is needed",
            fix=INSTALL_COMPOSE,
        )

    if shutil.which("docker", path=path) is None:
        raise EngineError(
            "the docker command was not found",
            fix="install Docker: https://docs.docker.com/engine/",
        )

    raise EngineError("Docker Compose was not found", fix=INSTALL_COMPOSE)


def run_compose(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    capture: bool = True,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `docker compose ARGUMENTS`; the caller judges the exit status. Without `capture` the
    output goes to the terminal.
    """
    environ = dict(os.environ if env is None else env)

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            env=environ,
            input=stdin,
            capture_output=capture,
            text=True,
            check=False,
        )

    return _tried(run, lambda done: done.returncode == 0, environ)


def stream_compose(
    arguments: Sequence[str],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str],
    timeout: float | None = None,
) -> tuple[int, list[str]]:
    """Run `docker compose ARGUMENTS` and hand on each line while it is written, of both streams:
    BuildKit tells its steps on the one or the other, by Compose's version.

    Returns the exit status and all lines. Raises TimeoutError after `timeout` seconds.
    """

    def run(command: Sequence[str]) -> tuple[int, list[str]]:
        # Whole lines, in the form that `build_log` reads, whatever COMPOSE_PROGRESS says.
        whole = [*command, "--progress", "plain", *arguments]
        return _stream(whole, on_line, env, timeout)

    return _tried(run, lambda done: done[0] == 0, env)


def _tried(
    run: Callable[[Sequence[str]], T],
    has_worked: Callable[[T], bool],
    env: Mapping[str, str],
) -> T:
    """What Compose answers, by the command that it is here. Its absence is only looked into after a
    failure, so that the usual case costs one process.
    """
    command: tuple[str, ...] = ("docker", "compose")

    # Twice at most: once Compose is known to be there, its failure is its own.
    while True:
        try:
            done = run(command)
        except FileNotFoundError:
            command = compose_command(env)
            continue

        if has_worked(done):
            return done
        working = compose_command(env)
        if working == command:
            return done
        command = working


def _stream(
    command: Sequence[str],
    on_line: Callable[[str], None],
    env: Mapping[str, str],
    timeout: float | None,
) -> tuple[int, list[str]]:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as running:
        try:
            for line in _lines(running, timeout):
                lines.append(line.rstrip())
                on_line(lines[-1])
        except BaseException:
            # Docker's plugin may outlive it, and ends when it writes to nobody.
            running.kill()
            raise

    return running.returncode, lines


def _lines(running: subprocess.Popen[bytes], timeout: float | None) -> Iterator[str]:
    """What a process writes, line by line; waits for no process that it left behind."""
    assert running.stdout is not None
    pipe = running.stdout.fileno()
    end = None if timeout is None else time.monotonic() + timeout
    rest, data = b"", b"."

    while data:
        left = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            raise TimeoutError(f"docker compose took more than {timeout:.0f} s")
        data = os.read(pipe, _CHUNK)
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)

    if rest:
        yield rest.decode("utf-8", "replace")


def project_arguments(
    files: Sequence[str] = (),
    project_name: str | None = None,
    project_directory: str | None = None,
    profiles: Sequence[str] = (),
) -> list[str]:
    """Compose's global options for a project."""
    arguments = [part for file in files for part in ("-f", file)]
    if project_name:
        arguments += ["-p", project_name]
    if project_directory:
        arguments += ["--project-directory", project_directory]
    return arguments + [part for profile in profiles for part in ("--profile", profile)]


@dataclass(frozen=True, slots=True)
class LoadedProject:
    """A project with the services of all its profiles; `inactive` are those of profiles that are
    not enabled. Where Compose loads only the others, `problem` says why.
    """

    project: dict[str, Any]
    inactive: frozenset[str] = frozenset()
    problem: str = ""

    @property
    def active(self) -> dict[str, Any]:
        """The project without the services of profiles that are not enabled."""
        services = {
            name: service
            for name, service in self.project["services"].items()
            if name not in self.inactive
        }
        return {**self.project, "services": services}


def load_project(
    files: Sequence[str] = (),
    project_name: str | None = None,
    project_directory: str | None = None,
    profiles: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> LoadedProject:
    """The project as Compose resolves it; needs no engine. Literal `$` is doubled in it, as in
    Compose's output.

    Raises InputError for a missing or wrong file, EngineError if Compose v2 is not there.
    """
    # Compose is asked twice, and stdin can be read once.
    stdin = sys.stdin.read() if "-" in files else None

    def config(enabled: Sequence[str]) -> subprocess.CompletedProcess[str]:
        options = project_arguments(files, project_name, project_directory, enabled)
        with span("docker compose config"):
            return run_compose([*options, "config"], env=env, stdin=stdin)

    with ThreadPoolExecutor(1) as pool:
        asked_for_all = pool.submit(config, [ALL_PROFILES])
        done = config(profiles)
    if done.returncode != 0:
        raise _config_error(done.stderr, files)
    active = _parsed(done.stdout)
    if not active.get("services"):
        raise InputError(
            "the project has no services",
            where=_place(files),
            fix="add a service, or choose a --profile",
        )

    done = asked_for_all.result()
    if done.returncode != 0:
        # Nobody asked for these services: what is wrong with them is in nobody's way.
        return LoadedProject(active, problem=_config_message(done.stderr))
    whole = _parsed(done.stdout)
    return LoadedProject(
        whole, frozenset(whole["services"]) - frozenset(active["services"])
    )


def load_name(files: Sequence[str] = ()) -> str:
    """What Compose calls the project, whichever of its services are enabled.

    Raises InputError as `load_project` does.
    """
    with span("docker compose config"):
        done = run_compose([*project_arguments(files), "config"])
    if done.returncode != 0:
        raise _config_error(done.stderr, files)
    return str(_parsed(done.stdout)["name"])


def _parsed(text: str) -> dict[str, Any]:
    found = yaml.load(text, Loader=_Loader)
    return found if isinstance(found, dict) else {}


def _version(
    command: tuple[str, ...], environ: Mapping[str, str]
) -> tuple[int, ...] | None:
    try:
        done = subprocess.run(
            [*command, "version", "--short"],
            env=dict(environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None

    return parse_version(done.stdout.strip()) if done.returncode == 0 else None


def _config_message(stderr: str) -> str:
    lines = [
        line
        for line in stderr.splitlines()
        # Warnings, as for a variable that is not set, come in logrus's form; they are not what
        # failed.
        if line.strip() and not line.startswith("time=")
    ]
    return "\n".join(lines) or "docker compose config failed"


def _config_error(stderr: str, files: Sequence[str]) -> DockermeshError:
    message = _config_message(stderr)
    where = _place(files)

    if "no configuration file provided" in message:
        return InputError(
            "no compose file here or in a parent directory",
            where=where,
            fix="name one with -f FILE, or change to the directory of your compose.yaml",
        )

    if "no such file or directory" in message and files:
        return InputError(message, where=where, fix="check the path given with -f")
    return InputError(
        message, where=where, fix="correct the file; `docker compose config` checks it"
    )


def _place(files: Sequence[str]) -> str:
    return (
        ", ".join(files) if files else os.environ.get("COMPOSE_FILE") or str(os.curdir)
    )
