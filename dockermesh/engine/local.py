"""The Docker engine for the command line: few synchronous calls, each failure an EngineError with
its remedy.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import Any

import docker
import docker.errors
import docker.utils
import requests

from dockermesh.errors import EngineError

START_DOCKER = (
    "start Docker (on Debian: `systemctl start docker`), or set DOCKER_HOST to where it listens"
)
JOIN_GROUP = (
    "`sudo usermod -aG docker $USER`, then log in again; or DOCKER_HOST, for another engine"
)


class LocalEngine:
    """A synchronous connection to the engine that the environment names.

    Raises EngineError when no engine answers.
    """

    def __init__(self) -> None:
        try:
            self._api: Any = docker.APIClient(
                version="auto", timeout=60, **docker.utils.kwargs_from_env()
            )
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise EngineError(
                f"no Docker engine answers: {_reason(error)}", fix=start_fix(error)
            ) from error

    @property
    def sdk(self) -> Any:
        """The SDK's client, for the other modules of engine/."""
        return self._api

    def version(self) -> dict[str, Any]:
        """GET /version."""
        return dict(self._call(self._api.version))

    def info(self) -> dict[str, Any]:
        """GET /info."""
        return dict(self._call(self._api.info))

    def has_image(self, reference: str) -> bool:
        """Whether the image is here already."""
        return bool(self._call(self._api.images, name=reference))

    def containers(self, labels: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Summaries of all containers, running or not, that have these labels."""
        return list(self._call(self._api.containers, all=True, filters={"label": list(labels)}))

    def inspect(self, container: str) -> dict[str, Any] | None:
        """GET /containers/ID/json; None if there is none."""
        try:
            return dict(self._api.inspect_container(container))
        except docker.errors.NotFound:
            return None
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineError(
                f"the engine failed: {_reason(error)}", fix="see the engine's log"
            ) from error

    def network_labels(self, name: str) -> dict[str, str] | None:
        """The labels of the network with this name; None if there is none."""
        found = self._call(self._api.networks, names=[name])
        return next((dict(n.get("Labels") or {}) for n in found if n["Name"] == name), None)

    def subnets(self) -> dict[str, list[str]]:
        """The subnets of all networks, by the network's name."""
        found = self._call(self._api.networks)
        configs = {n["Name"]: (n.get("IPAM") or {}).get("Config") or () for n in found}
        return {
            name: [c["Subnet"] for c in known if c.get("Subnet")] for name, known in configs.items()
        }

    def logs(self, container: str, lines: int = 20) -> str:
        """The last lines that a container wrote."""
        return bytes(self._call(self._api.logs, container, tail=lines)).decode("utf-8", "replace")

    def read_file(self, container: str, path: str) -> bytes | None:
        """A file's content out of a container; None if there is none."""
        try:
            chunks, _ = self._api.get_archive(container, path)
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                member = archive.extractfile(archive.getmembers()[0])
                return member.read() if member is not None else None
        except docker.errors.NotFound:
            return None
        except (
            docker.errors.DockerException,
            requests.RequestException,
            tarfile.TarError,
        ) as error:
            raise EngineError(f"cannot read {path} of {container}: {_reason(error)}") from error

    def execute(
        self, container: str, command: list[str], *, user: str = ""
    ) -> tuple[int, bytes, bytes]:
        """Run a command in a container; returns its exit code and what it wrote to stdout and
        stderr.
        """
        made = self._call(self._api.exec_create, container, command, user=user)
        # Collected here: the SDK appends each part to all before it, which takes minutes for 40 MB.
        parts = self._call(lambda: list(self._api.exec_start(made["Id"], stream=True, demux=True)))
        code = self._call(self._api.exec_inspect, made["Id"])["ExitCode"]
        return (
            int(code or 0),
            b"".join(out or b"" for out, _ in parts),
            b"".join(err or b"" for _, err in parts),
        )

    def _call(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise EngineError(
                f"the engine failed: {_reason(error)}", fix="see the engine's log"
            ) from error


def start_fix(error: Exception) -> str:
    """What to do when the engine's socket cannot be used."""
    return JOIN_GROUP if "Permission denied" in str(error) else START_DOCKER


def _reason(error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text:
        return "this user may not use its socket (permission denied)"
    return (
        "connection refused, or no such socket"
        if "FileNotFoundError" in text or "refused" in text
        else text
    )
