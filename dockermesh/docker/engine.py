"""The Docker engine for the command line: few synchronous calls, each failure an EngineError with
its remedy.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import docker.errors

from dockermesh.docker.address import EngineAddress, resolve_engine
from dockermesh.docker.connection import ENGINE_FAILURES, open_client
from dockermesh.docker.frames import frames
from dockermesh.errors import EngineError

START_DOCKER = (
    "start Docker (on Debian: `systemctl start docker`), "
    "or set DOCKER_HOST to where it listens"
)
REACH_DOCKER = (
    "`docker info` tells more; `docker context ls` lists the engines that you know"
)
JOIN_GROUP = (
    "`sudo usermod -aG docker $USER`, then log in again; "
    "or DOCKER_HOST, for another engine"
)
_TIMEOUT_S = 60
_STDERR = 2
_NO_IMAGE = "dockermesh/no-such-image:probe"
# Not by the archive API: on Docker 28 and later it fails for a container that has anything mounted
# below a symlink. Base64, so that one line is one file.
_ABSENT = "-"
_READ = f"""
for file; do
  if [ -e "$file" ]; then base64 -w 0 "$file" && echo || exit; else echo {_ABSENT}; fi
done
"""


class LocalEngine:
    """A synchronous connection to the engine that the environment names.

    Raises EngineError when no engine answers.
    """

    def __init__(self, address: EngineAddress | None = None) -> None:
        self.address = address or resolve_engine()
        try:
            self._api: Any = open_client(self.address, timeout=_TIMEOUT_S)
        except ENGINE_FAILURES as error:
            raise EngineError(
                f"no Docker engine answers: {_reason(error)}",
                where=str(self.address),
                fix=start_fix(error) if self.address.is_socket else REACH_DOCKER,
            ) from error

    @property
    def url(self) -> str:
        """Where the engine is: `unix:///var/run/docker.sock`, `tcp://docker:2376`, `ssh://host`."""
        return self.address.url

    @property
    def sdk(self) -> Any:
        """The SDK's client, for the other modules of docker/."""
        return self._api

    def version(self) -> dict[str, Any]:
        """GET /version."""
        return dict(self._call(self._api.version))

    def info(self) -> dict[str, Any]:
        """GET /info."""
        return dict(self._call(self._api.info))

    def identity(self) -> str:
        """What no two engines have in common: ID and data root. The ID alone is copied with
        /etc/docker by older ones.
        """
        info = self.info()
        return f"{info.get('ID') or self.address.url} {info.get('DockerRootDir', '')}".strip()

    def has_image(self, reference: str) -> bool:
        """Whether the image is here already, by any of the ways to name one."""
        try:
            self._api.inspect_image(reference)
        except docker.errors.ImageNotFound:
            return False
        except ENGINE_FAILURES as error:
            raise _failed(error) from error
        return True

    def containers(self, labels: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Summaries of all containers, running or not, that have these labels."""
        return list(
            self._call(self._api.containers, all=True, filters={"label": list(labels)})
        )

    def inspect(self, container: str) -> dict[str, Any] | None:
        """GET /containers/ID/json; None if there is none."""
        try:
            return dict(self._api.inspect_container(container))
        except docker.errors.NotFound:
            return None
        except ENGINE_FAILURES as error:
            raise _failed(error) from error

    def remove_container(self, container: str) -> None:
        """End a container if it runs, without time to stop, and remove it."""
        try:
            self._api.remove_container(container, force=True)
        except docker.errors.NotFound:
            return
        except ENGINE_FAILURES as error:
            raise _failed(error) from error

    def network_labels(self, name: str) -> dict[str, str] | None:
        """The labels of the network with this name; None if there is none."""
        # The engine's filter also takes networks whose name only contains this one.
        found = self._call(self._api.networks, names=[name])
        return next(
            (dict(n.get("Labels") or {}) for n in found if n["Name"] == name), None
        )

    def project_networks(self, label: str) -> list[str]:
        """The names of the networks that have this label."""
        found = self._call(self._api.networks, filters={"label": [label]})
        return [str(network["Name"]) for network in found]

    def on_network(self, name: str) -> list[str]:
        """The ids of the containers that the engine shows on a network."""
        try:
            return sorted(self._api.inspect_network(name).get("Containers") or ())
        except docker.errors.NotFound:
            return []
        except ENGINE_FAILURES as error:
            raise _failed(error) from error

    def remove_network(self, name: str) -> bool:
        """Remove a network; whether it was there. Raises EngineError while somebody is on it."""
        try:
            self._api.remove_network(name)
        except docker.errors.NotFound:
            return False
        except ENGINE_FAILURES as error:
            raise _failed(error) from error
        return True

    def forget_endpoint(self, network: str, container: str) -> bool:
        """Take a container that is gone off a network; whether it was on it still."""
        try:
            self._api.disconnect_container_from_network(container, network, force=True)
        except docker.errors.APIError:
            return False
        except ENGINE_FAILURES as error:
            raise _failed(error) from error
        return True

    def subnets(self) -> dict[str, list[str]]:
        """The subnets of all networks, by the network's name."""
        found = self._call(self._api.networks)
        configs = {n["Name"]: (n.get("IPAM") or {}).get("Config") or () for n in found}
        return {
            name: [c["Subnet"] for c in known if c.get("Subnet")]
            for name, known in configs.items()
        }

    def volumes(self, labels: Iterable[str]) -> list[dict[str, Any]]:
        """The volumes that have these labels."""
        found = self._call(self._api.volumes, filters={"label": list(labels)})
        return list(found["Volumes"] or ())

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; whether it was there. Raises EngineError while somebody uses it."""
        try:
            self._api.remove_volume(name)
        except docker.errors.NotFound:
            return False
        except ENGINE_FAILURES as error:
            raise _failed(error) from error
        return True

    def logs(self, container: str, lines: int = 20) -> str:
        """The last lines that a container wrote."""
        return bytes(self._call(self._api.logs, container, tail=lines)).decode(
            "utf-8", "replace"
        )

    def read_file(self, container: str, path: str) -> bytes | None:
        """A file's content out of a running container; None if there is none."""
        return self.read_files(container, [path])[path]

    def read_files(
        self, container: str, paths: Sequence[str]
    ) -> dict[str, bytes | None]:
        """The content of files out of a running container, by path, in one exec; None for each that
        is not there. Raises EngineError if one cannot be read.
        """
        # The second `sh` is $0: a path is an argument, and never a part of the script.
        command = ["sh", "-c", _READ, "sh", *paths]
        code, output, problem = self.execute(container, command)
        lines = output.decode("ascii", "replace").splitlines()
        if code or len(lines) != len(paths):
            reason = problem.decode("utf-8", "replace").strip() or f"exit code {code}"
            raise EngineError(
                f"cannot read {', '.join(paths)}: {reason}", where=container
            )

        return {
            path: None if line == _ABSENT else base64.b64decode(line)
            for path, line in zip(paths, lines, strict=True)
        }

    def execute(
        self, container: str, command: list[str], *, user: str = ""
    ) -> tuple[int, bytes, bytes]:
        """Run a command in a container; returns its exit code and what it wrote to stdout and
        stderr.
        """
        made = self._call(self._api.exec_create, container, command, user=user)
        parts = self._call(lambda: list(self._output(made["Id"])))
        # Only now: it is null for as long as the command runs.
        code = self._call(self._api.exec_inspect, made["Id"])["ExitCode"]
        return (
            int(code or 0),
            b"".join(part for stream, part in parts if stream != _STDERR),
            b"".join(part for stream, part in parts if stream == _STDERR),
        )

    def _output(self, execution: str) -> Iterator[tuple[int, bytes]]:
        """Start a command; each part of its output with the stream that it is of.

        The SDK's own reads the socket past its buffer, which loses what came with the answer's head
        and, over TLS, waits for what has been decrypted already. Without an upgrade it is a plain
        answer.
        """
        url = f"{self._api.base_url}/v{self._api.api_version}/exec/{execution}/start"
        order = {"Tty": False, "Detach": False}

        # A command may be silent for as long as it likes.
        with self._api.post(url, json=order, stream=True, timeout=None) as answer:
            if answer.status_code >= 400:
                raise docker.errors.APIError(answer.text, response=answer)
            yield from frames(answer)

    def attach(self, container: str, command: list[str]) -> Any:
        """Start a command in a container, with the connection to its stdin and stdout as the SDK
        has it for its transport; `exec_stream` makes a socket of it.
        """
        made = self._call(self._api.exec_create, container, command, stdin=True)
        return self._call(self._api.exec_start, made["Id"], socket=True)

    def run_once(self, image: str, command: list[str], *, network: str) -> bytes:
        """What a command writes in a container made for it, which is removed again."""
        made = self._call(
            self._api.create_container,
            image,
            command[1:],
            # Else the image's own entrypoint would take the command for its arguments.
            entrypoint=command[:1],
            # The registrar looks at every container that starts, at this one, too.
            labels={"SERVICE_IGNORE": "true"},
            host_config=self._api.create_host_config(network_mode=network),
        )
        try:
            self._call(self._api.start, made["Id"])
            self._call(self._api.wait, made["Id"])
            return bytes(self._call(self._api.logs, made["Id"], stderr=False))
        finally:
            self._call(self._api.remove_container, made["Id"], force=True)

    def sees(self, path: str) -> bool:
        """Whether this path is there on the engine's host; nothing is made.

        A bind mount's source is looked for before the image, which there is none of.
        """
        # Not by `Binds`, the form of `-v`: for that one the engine makes the folder that is
        # missing.
        mount = {"Type": "bind", "Source": path, "Target": "/probe"}
        order = {"Image": _NO_IMAGE, "HostConfig": {"Mounts": [mount]}}

        try:
            self._api.create_container_from_config(order)
        except docker.errors.NotFound:
            return True
        except docker.errors.APIError as error:
            if "does not exist" in str(error.explanation):
                return False
            raise EngineError(
                f"the engine does not say whether it has {path}: {error.explanation}"
            ) from error
        except ENGINE_FAILURES as error:
            raise EngineError(f"the engine failed: {_reason(error)}") from error

        return True

    def _call(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except ENGINE_FAILURES as error:
            raise _failed(error) from error


def _failed(error: Exception) -> EngineError:
    return EngineError(
        f"the engine failed: {_reason(error)}", fix="see the engine's log"
    )


def start_fix(error: Exception) -> str:
    """What to do when the engine's socket cannot be used."""
    return JOIN_GROUP if "Permission denied" in str(error) else START_DOCKER


def _reason(error: Exception) -> str:
    text = str(error)
    # ssh's own words, which `requests` hands on inside of its own.
    if "ssh: " in text:
        return text[text.index("ssh: ") :].rstrip("')")
    if "Permission denied" in text:
        return "this user may not use its socket (permission denied)"
    return (
        "connection refused, or no such socket"
        if "FileNotFoundError" in text or "refused" in text
        else text
    )
