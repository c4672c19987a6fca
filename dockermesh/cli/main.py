"""The `dockermesh` command: a lazy group of one module per verb.

Invariant: this module imports click only, so that `--help` and completion stay under 0.15 s; a
verb's own module (and with it Docker, gRPC, ...) is imported when that verb runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click

from dockermesh import __version__
from dockermesh.cli.colours import styled
from dockermesh.errors import DockermeshError

VERBS = {
    "up": "Bring a Compose app up in the mesh; returns when every proxy is in sync.",
    "down": "Remove what `up` made, and nothing else.",
    "attach": "Take running containers into the mesh as they are (node mode, a preview).",
    "detach": "Take containers out of the mesh; they run on.",
    "ps": "List workloads with their containers, endpoint health and xDS state.",
    "port": "Print where a published port is, as `docker compose port` does without the mesh.",
    "logs": "Show what apps and their proxies wrote, in the order of time.",
    "trace": "Show requests on their way through the mesh, as trees.",
    "top": "Show requests, success, durations and bytes of workloads, live.",
    "graph": "Show who calls whom, with rates and errors.",
    "inject": "Write the meshed form of a Compose project.",
    "capture": "Print the traffic capture rules of a pod.",
    "validate": "Check Istio resources offline.",
    "convert": "Turn Mixer's resources of Istio 1.0 into today's.",
    "analyze": "Say what is valid but wrong, in the mesh or in files.",
    "apply": "Apply Istio resources to the running mesh.",
    "get": "Show resources of the mesh.",
    "delete": "Delete resources of the mesh.",
    "history": "List the changes of the config, with number, time and author.",
    "rollback": "Restore the config as of a number of the history.",
    "kubeconfig": "Write a context for kubectl.",
    "forward": "Forward a local port to the config API while a command runs.",
    "proxy-status": (
        "Show how far each proxy is; with a workload, what differs from what it should have."
    ),
    "proxy-config": "Show what the Envoy of a workload has (alias: pc).",
    "ca": "Look at the certificate authority; rotate its root.",
    "mtls": "Show what is encrypted, and what STRICT would break.",
    "explain": "Say what decides a request: listener, rule, subset, endpoints, policies.",
    "token": "List and revoke tokens of proxies; make one to join with.",
    "join": "Make a process outside Docker a workload of the mesh.",
    "render": "Print what a proxy is told, from files alone.",
    "control-plane": "Run the control plane (bridge, translation, xDS, CA, API).",
    "limiter": "Limit requests for Envoys of your own, by files of envoyproxy/ratelimit.",
    "registrar": "Put this host's containers into Consul, and heal pods.",
    "node-agent": "Lead this host's containers in node mode to their proxy.",
    "images": "List, build, pull, push and save the mesh's images.",
    "doctor": "Check the engine, Compose, images, ports and kernel; each failure with its fix.",
    "version": "Print versions.",
    "completion": "Print a shell completion script.",
}
_OS_FIX = "see that the file may be read and written, and that its disk has room"
ALIASES = {"pc": "proxy-config"}
"""istioctl's `ps` is `proxy-status` here: `dockermesh ps` lists workloads, as Compose's does
containers.
"""


class _LazyGroup(click.Group):
    """A group that knows the names and help lines of its commands before it imports them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in VERBS:
            return None
        from importlib import import_module

        command: click.Command = import_module(
            f"dockermesh.cli.{cmd_name.replace('-', '_')}"
        ).command
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        # click's own would import every verb for the first line of its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (
            args
            and not args[0].startswith("-")
            and args[0] not in VERBS
            and args[0] not in ALIASES
        ):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = (
                f" Did you mean '{near[0]}'?" if near else " See 'dockermesh --help'."
            )
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, prog_name="dockermesh", message="%(prog)s %(version)s"
)
@click.option(
    "-H",
    "--host",
    "hosts",
    multiple=True,
    metavar="URL",
    help="The Docker engine: unix:///PATH, tcp://HOST:PORT, ssh://USER@HOST [DOCKER_HOST].",
)
@click.option(
    "-c",
    "--context",
    "context",
    default="",
    metavar="NAME",
    help="The Docker context to use [DOCKER_CONTEXT, else the current one].",
)
def root(hosts: tuple[str, ...], context: str) -> None:
    """A service mesh for Docker and Compose: Envoy, Consul and Istio's API, without Kubernetes.

    Exit codes: 0 ok, 1 failed, 2 usage, 79 findings of analyze, 130 interrupted.
    """
    if hosts or context:
        from dockermesh.docker.address import choose_engine

        # The SDK, Compose and every command read the environment, and so agree.
        choose_engine(os.environ, hosts, context)


def report(error: DockermeshError) -> None:
    """Print what failed, where, and the next step to stderr."""
    place = styled(f"{error.where}: ", bold=True) if error.where else ""
    click.echo(f"{styled('Error:', fg='red', bold=True)} {place}{error.what}", err=True)
    if error.fix:
        click.echo(f"  {styled('->', fg='cyan')} {error.fix}", err=True)


def main(
    args: list[str] | None = None, *, before: Callable[[], list[str]] | None = None
) -> None:
    """Run the command line and exit with its code. `before` gives the arguments, and may fail as a
    command may.
    """
    try:
        args = before() if before else args
        # In standalone mode click would end the process, whatever a command returns.
        code = root.main(args, prog_name="dockermesh", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except DockermeshError as error:
        report(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): end quietly, as other tools do.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        report(_unforeseen(error))
        sys.exit(1)


def _unforeseen(error: OSError) -> DockermeshError:
    """What no part of ours foresaw, as a disk that is full or a file that is not the user's."""
    place = str(error.filename or "")
    return DockermeshError(error.strerror or str(error), where=place, fix=_OS_FIX)


if __name__ == "__main__":
    main()
