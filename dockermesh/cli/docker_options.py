"""The Docker CLI's own options, which stand before the word `mesh` in `docker -H URL mesh up`.

Invariant: they end in the environment, where the SDK, Compose and every command find them.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import click

from dockermesh.docker.address import choose_engine, config_folder
from dockermesh.errors import InputError, UsageError

_SWITCH = re.compile(r"--(?P<name>debug|tls|tlsverify)=(?P<value>.*)")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_FILES = ("ca.pem", "cert.pem", "key.pem")


def take_docker_options(
    args: Sequence[str], environ: MutableMapping[str, str] | None = None
) -> list[str]:
    """The arguments behind the word `mesh`; what stands before it goes into the environment.

    Raises UsageError for options that Docker does not have or that contradict each other, and
    InputError for a certificate that is not there.
    """
    environ = os.environ if environ is None else environ
    try:
        with _options.make_context("docker", _unswitched(args)) as context:
            found = context.params
    except click.UsageError as error:
        raise UsageError(error.message, fix="see `docker --help`") from error

    if found["folder"]:
        environ["DOCKER_CONFIG"] = found["folder"]
    # Docker takes `-H=URL`, too.
    hosts = [host.removeprefix("=") for host in found["hosts"]]
    choose_engine(environ, hosts, found["context"].removeprefix("="))
    _set_tls(environ, found["tls"], found["tlsverify"])
    _set_certificates(environ, [found["tlscacert"], found["tlscert"], found["tlskey"]])
    rest = list(found["rest"])

    return rest[1:] if rest[:1] == ["mesh"] else rest


@click.command(
    add_help_option=False, context_settings={"allow_interspersed_args": False}
)
@click.option("--config", "folder", default="")
@click.option("-c", "--context", default="")
@click.option("-H", "--host", "hosts", multiple=True)
@click.option("-D", "--debug", is_flag=True)
@click.option("-l", "--log-level", default="")
@click.option("--tls/--no-tls", default=None)
@click.option("--tlsverify/--no-tlsverify", default=None)
@click.option("--tlscacert", default="")
@click.option("--tlscert", default="")
@click.option("--tlskey", default="")
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def _options(**_: object) -> None: ...


def _unswitched(args: Sequence[str]) -> list[str]:
    """`--tls=false` as `--no-tls`, up to the first argument that is no option's."""
    found = list(args)
    limit = found.index("mesh") if "mesh" in found else len(found)

    for place, argument in enumerate(found[:limit]):
        match = _SWITCH.fullmatch(argument)
        if match is None:
            continue
        if match["value"] not in _TRUE | _FALSE:
            raise UsageError(
                f"{argument}: write true or false", fix="see `docker --help`"
            )
        found[place] = f"--{'' if match['value'] in _TRUE else 'no-'}{match['name']}"

    return found


def _set_tls(
    environ: MutableMapping[str, str], tls: bool | None, verify: bool | None
) -> None:
    # As for Docker: to say anything of verifying means TLS.
    wanted = {
        "DOCKER_TLS": True if verify is not None else tls,
        "DOCKER_TLS_VERIFY": verify,
    }
    for variable, value in wanted.items():
        if value:
            environ[variable] = "1"
        elif value is not None:
            environ.pop(variable, None)


def _set_certificates(environ: MutableMapping[str, str], given: Sequence[str]) -> None:
    """Have `DOCKER_CERT_PATH`, which is all that the environment can say, lead to these files."""
    if not any(given):
        return
    usual = Path(environ.get("DOCKER_CERT_PATH") or config_folder(environ))
    folder = Path(tempfile.mkdtemp(prefix="dockermesh-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    for name, file in zip(_FILES, given, strict=True):
        # As the CLI, which takes quotes off these paths.
        target = Path(file.strip("'\"")) if file else usual / name
        if target.is_file():
            (folder / name).symlink_to(target.resolve())
        elif file:
            raise InputError(
                "there is no such file", where=file, fix=f"--tls* wants a {name}"
            )

    environ["DOCKER_CERT_PATH"] = str(folder)
