"""The registrar as a process of its own: settings to running parts, until it is told to stop.

Invariant: stopping removes nothing from Consul, since the services run on; the next registrar takes
them over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import structlog

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.docker.async_engine import DockerEngine
from dockermesh.errors import EngineError
from dockermesh.model.contract import ENV_HOST
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.options import Options, parse_flags
from dockermesh.registrar.registrar import Registrar
from dockermesh.registrar.render import resolve
from dockermesh.runtime.backoff import Backoff
from dockermesh.runtime.daemon import configure_logging, default_form, on_stop

log = structlog.get_logger(__name__)


def run_registrar(flags: Mapping[str, Any]) -> None:
    """Run until SIGTERM or SIGINT.

    Raises InputError on options that contradict each other.
    """
    configure_logging(default_form())
    options, _ = parse_flags({k: v for k, v in flags.items() if v})
    env = dict(os.environ)
    if flags.get("consul"):
        env["CONSUL_HTTP_ADDR"] = flags["consul"]
    settings = ConsulSettings.from_environment(env)
    asyncio.run(
        _run(
            options,
            settings,
            heal=not flags.get("no_heal"),
            resync=flags.get("resync") or 30.0,
        )
    )


async def _run(
    options: Options, settings: ConsulSettings, *, heal: bool, resync: float
) -> None:
    engine = DockerEngine()
    work = asyncio.create_task(
        _register(engine, options, settings, heal=heal, resync=resync)
    )
    on_stop(work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped; entries in Consul stay")


async def _register(
    engine: DockerEngine,
    options: Options,
    settings: ConsulSettings,
    *,
    heal: bool,
    resync: float,
) -> None:
    options = await complete_options(engine, options)
    client = ConsulClient(settings)
    try:
        log.info(
            "registering",
            host=options.owner,
            consul=settings.address,
            internal=options.internal,
        )
        await Registrar(
            engine, ConsulSink(client, options.owner), options, heal=heal, resync=resync
        ).run()
    finally:
        await client.close()


async def complete_options(engine: DockerEngine, options: Options) -> Options:
    """The options with this host's name and address filled in; waits for the engine as long as it
    takes.
    """
    host = options.host or os.environ.get(ENV_HOST, "") or await _engine_name(engine)
    # The name becomes part of keys in Consul's KV.
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", host).strip(".") or "host"
    hostname = options.hostname or host
    # A name server that is away keeps a lookup for 10 s; nothing else may wait for it.
    address = (
        await asyncio.to_thread(resolve, hostname) if options.needs_host_address else ""
    )
    return dataclasses.replace(
        options, host=host, hostname=hostname, host_address=address
    )


async def _engine_name(engine: DockerEngine) -> str:
    backoff = Backoff(0.2, 5.0)
    while True:
        try:
            return str((await engine.info()).get("Name") or "")
        except EngineError as error:
            log.warning(
                "the engine is away; trying again until it is back", error=error.what
            )
            await asyncio.sleep(backoff.next())
