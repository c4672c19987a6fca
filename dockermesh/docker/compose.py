"""The only code that runs `docker compose`: loading a project, and bringing one up or down.

Invariant: Compose itself decides what a file means (interpolation, `extends`, `include`, merging,
profiles); we read what it printed. The YAML output is read, not the JSON, because Compose's JSON
drops the `x-*` keys of services.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from dockermesh.docker.versions import parse_version
from dockermesh.errors import DockermeshError, EngineError, InputError

INSTALL_COMPOSE = "install Compose v2: https://docs.docker.com/compose/install/linux/"
OLDEST = (2, 24)
"""The first Compose with `!override`, inline configs and `depends_on.required`."""


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
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `docker compose ARGUMENTS`; the caller judges the exit status. Raises TimeoutError after
    `timeout` seconds.

    Without `capture` the output goes to the terminal. Compose's absence is only looked into after a
    failure, so that the usual case costs one process.
    """
    environ = dict(os.environ if env is None else env)
    command: tuple[str, ...] = ("docker", "compose")

    # Twice at most: once Compose is known to be there, its failure is its own.
    while True:
        try:
            done = subprocess.run(
                [*command, *arguments],
                env=environ,
                input=stdin,
                capture_output=capture,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(
                f"docker compose took more than {timeout:.0f} s"
            ) from error
        except FileNotFoundError:
            command = compose_command(environ)
            continue

        if done.returncode == 0:
            return done
        working = compose_command(environ)
        if working == command:
            return done
        command = working


def stream_compose(
    arguments: Sequence[str], on_line: Callable[[str], None], *, env: Mapping[str, str]
) -> tuple[int, list[str]]:
    """Run `docker compose ARGUMENTS` and hand on each line while it is written, of both streams:
    BuildKit tells its steps on the one or the other, by Compose's version.

    Returns the exit status and all lines. There is no time limit.
    """
    # Whole lines, in the form that `build_log` reads, whatever COMPOSE_PROGRESS says.
    command = [*compose_command(env), "--progress", "plain", *arguments]
    lines: list[str] = []

    with subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as running:
        for line in running.stdout or ():
            lines.append(line.rstrip())
            on_line(lines[-1])

    return running.returncode, lines


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


def load_project(
    files: Sequence[str] = (),
    project_name: str | None = None,
    project_directory: str | None = None,
    profiles: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The project as Compose resolves it; needs no engine. Literal `$` is doubled in it, as in
    Compose's output.

    Raises InputError for a missing or wrong file, EngineError if Compose v2 is not there.
    """
    options = project_arguments(files, project_name, project_directory, profiles)
    done = run_compose([*options, "config"], env=env)
    if done.returncode != 0:
        raise _config_error(done.stderr, files)

    project = yaml.load(done.stdout, Loader=_Loader)
    if not isinstance(project, dict) or not project.get("services"):
        raise InputError(
            "the project has no services",
            where=_place(files),
            fix="add a service, or choose a --profile",
        )

    return project


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


def _config_error(stderr: str, files: Sequence[str]) -> DockermeshError:
    lines = [
        line
        for line in stderr.splitlines()
        # Warnings, as for a variable that is not set, come in logrus's form; they are not what
        # failed.
        if line.strip() and not line.startswith("time=")
    ]
    message = "\n".join(lines) or "docker compose config failed"
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
