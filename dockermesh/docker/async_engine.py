"""The Docker engine for asynchronous callers: the official SDK's calls in a small pool of threads.

Invariant: every failure leaves as an EngineError; a container that is gone is None, not a failure.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import docker.errors
import requests

from dockermesh.docker.address import resolve_engine
from dockermesh.docker.connection import ENGINE_FAILURES, open_client
from dockermesh.docker.events import ACTIONS, EventStream
from dockermesh.errors import EngineError

T = TypeVar("T")
_TIMEOUT = 30
# Tried when an access filter refuses /version: Docker 29's oldest, and the newest of Docker 20.10.
_VERSIONS = ("1.44", "1.41")


class EngineRefusedError(EngineError):
    """The engine, or a filter in front of it, does not allow the call."""


class DockerEngine:
    """A connection to the engine that the environment means, as the Docker CLI reads it."""

    def __init__(self, base_url: str = "", *, threads: int = 4) -> None:
        self._address = resolve_engine({"DOCKER_HOST": base_url} if base_url else None)
        self._version = ""
        self._lock = threading.Lock()
        # A client for each thread: a session of `requests` is not made for several at once.
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="docker")
        # Its own: commands take their time, and nothing else may wait for them.
        self._commands = ThreadPoolExecutor(threads, thread_name_prefix="exec")

    async def close(self) -> None:
        """Let go of the threads; calls in flight end first."""
        # Shutting down waits for calls in flight, so it must not be the loop's thread that does.
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._pool.shutdown)
        await loop.run_in_executor(None, self._commands.shutdown)

    async def info(self) -> dict[str, Any]:
        """GET /info."""
        return await self._call(lambda api: dict(api.info()))

    async def list_containers(self) -> list[dict[str, Any]]:
        """A summary of every container, whether it runs or not."""
        return await self._call(lambda api: list(api.containers(all=True)))

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """GET /containers/ID/json; None if it is gone."""
        return await self._call_or_none(
            lambda api: dict(api.inspect_container(container))
        )

    async def image_config(self, image: str) -> dict[str, Any] | None:
        """What an image brings to its containers' `Config`; None if it is gone."""
        found = await self._call_or_none(lambda api: dict(api.inspect_image(image)))
        return None if found is None else dict(found.get("Config") or {})

    async def subnets(self) -> dict[str, list[str]]:
        """The subnets of each network, by the network's id."""
        listed = await self._call(lambda api: list(api.networks()))
        configs = {n["Id"]: (n.get("IPAM") or {}).get("Config") or () for n in listed}
        return {
            network: [str(c["Subnet"]) for c in found if c.get("Subnet")]
            for network, found in configs.items()
        }

    async def members(self, network: str) -> dict[str, str]:
        """The containers on a network with their IPv4 addresses. Unlike `inspect`, it answers
        while a container is being started.
        """
        found = await self._call_or_none(lambda api: dict(api.inspect_network(network)))
        listed = (found or {}).get("Containers") or {}
        return {
            container: str(member.get("IPv4Address") or "").partition("/")[0]
            for container, member in listed.items()
        }

    async def logs(self, container: str, since: int) -> str:
        """What it wrote to stdout since this time in nanoseconds (0: ever), each line after
        Docker's time and a space; empty if it is gone.
        """
        options: dict[str, Any] = {"stdout": True, "stderr": False, "timestamps": True}
        if since:
            # The SDK takes no text here. A float of today's time is good to a quarter of a
            # microsecond.
            options["since"] = since / 1e9
        found = await self._call_or_none(
            lambda api: bytes(api.logs(container, **options))
        )
        return (found or b"").decode("utf-8", "replace")

    async def started(self) -> str:
        """When the engine came up, in RFC 3339; empty if it does not tell.

        It makes its default bridge anew at each start, and says nothing else about that.
        """
        try:
            found = await self._call_or_none(lambda api: api.inspect_network("bridge"))
        except EngineRefusedError:
            # A filter in front of the socket.
            return ""
        return str((found or {}).get("Created") or "")

    async def subscribe(self, since: int = 0) -> EventStream:
        """A subscription to the events of containers, from `since` (nanoseconds) on if it is
        given.
        """
        arguments: dict[str, Any] = {
            "filters": {"type": ["container", "network"], "event": list(ACTIONS)}
        }
        if since:
            # As text, which the SDK passes on: a float is too coarse for nanoseconds.
            arguments["since"] = f"{since // 1_000_000_000}.{since % 1_000_000_000:09d}"

        def open_stream(api: Any) -> Any:
            # A client of its own: the stream outlives the call, and closing it must not hit another
            # call's connection. The SDK lifts the client's time limit for this one call.
            return self._new_client(api.api_version).events(decode=True, **arguments)

        stream = await self._call(open_stream)
        return EventStream(stream, stream.close)

    async def start(self, container: str) -> None:
        """POST /containers/ID/start; running already is fine."""
        await self._call(lambda api: api.start(container))

    async def restart(self, container: str, grace: int) -> None:
        """POST /containers/ID/restart, killed after `grace` seconds."""
        await self._call(lambda api: api.restart(container, timeout=grace))

    async def stop(self, container: str, grace: int) -> None:
        """POST /containers/ID/stop, killed after `grace` seconds; stopped already is fine."""
        await self._call(lambda api: api.stop(container, timeout=grace))

    async def execute(
        self, container: str, command: list[str], seconds: float
    ) -> tuple[str, int | None, str]:
        """Run a command in a container, for `seconds` at most: its id, its exit code, and
        what it wrote.

        The engine has no way to end it: what takes longer runs on, and has no exit code yet.
        """

        def run(api: Any) -> tuple[str, int | None, str]:
            made = str(api.exec_create(container, command)["Id"])
            client = self._new_client(api.api_version)
            client.timeout = seconds
            try:
                output = bytes(client.exec_start(made) or b"")
            except (requests.RequestException, OSError):
                output = b""
            finally:
                client.close()
            code = api.exec_inspect(made)["ExitCode"]
            return made, code, output.decode("utf-8", "replace")

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._commands, self._run, run)

    async def is_executing(self, execution: str) -> bool:
        """Whether a command that was begun by `execute` still runs."""
        found = await self._call_or_none(lambda api: dict(api.exec_inspect(execution)))
        return bool(found and found["Running"])

    async def _call_or_none(self, action: Callable[[Any], T]) -> T | None:
        def guarded(api: Any) -> T | None:
            try:
                return action(api)
            except docker.errors.NotFound:
                return None

        return await self._call(guarded)

    async def _call(self, action: Callable[[Any], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._run, action
        )

    def _run(self, action: Callable[[Any], T]) -> T:
        try:
            return action(self._client())
        except docker.errors.APIError as error:
            raise _engine_error(error) from error
        except ENGINE_FAILURES as error:
            raise EngineError(
                f"cannot talk to the Docker engine: {error}",
                where=str(self._address),
                fix="start Docker, or set DOCKER_HOST to where it listens",
            ) from error

    def _client(self) -> Any:
        client = getattr(self._local, "client", None)
        if client is None:
            with self._lock:
                self._version = self._version or self._negotiate()
            client = self._local.client = self._new_client(self._version)
        return client

    def _new_client(self, version: str) -> Any:
        return open_client(self._address, timeout=_TIMEOUT, version=version)

    def _negotiate(self) -> str:
        try:
            return str(self._new_client("").api_version)
        except docker.errors.DockerException as error:
            if "403" not in str(error) and "Forbidden" not in str(error):
                raise

        for version in _VERSIONS:
            try:
                self._new_client(version).containers(limit=1)
            except docker.errors.APIError as error:
                if error.status_code != 400:
                    raise
            else:
                return version

        return _VERSIONS[-1]


def _engine_error(error: docker.errors.APIError) -> EngineError:
    text = str(error.explanation or error)
    if error.status_code in (401, 403, 405):
        return EngineRefusedError(
            f"the engine refused: {text}",
            fix="allow the call in the socket's access filter",
        )
    return EngineError(f"the engine failed: {text}", fix="see the engine's log")
