"""Workloads outside Docker: their record and their endpoints in Consul, written on request and not
by observation.

Invariant: a name is given once; what `remove` is told of is gone as a whole. Nobody checks their
health: Consul is kept off the mesh network, and a check that cannot connect would call them dead
forever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import consul_errors
from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import InputError
from dockermesh.model import ServedPort, Workload
from dockermesh.model.contract import (
    KEY_WORKLOADS,
    META_ACCOUNT,
    META_HOST,
    META_NAMESPACE,
    META_SERVICE,
    META_WORKLOAD,
)
from dockermesh.model.workload import JOINED
from dockermesh.registrar.mapping import Registration

_MOST = 1000


class ConsulJoined:
    """Writes to the agent of `settings`."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._settings = settings

    async def add(self, workload: Workload, ports: Mapping[int, str]) -> Workload:
        """Take a workload in, under the first free name of its service; `ports` are those it
        serves, with protocols.

        Raises RegistryError when Consul fails, InputError when there is no name left.
        """
        async with consul_errors("joining"), _client(self._settings) as client:
            for number in range(1, _MOST):
                named = _named(workload, number, ports)
                text = json.dumps(named.to_dict(), sort_keys=True)
                # The record first: who has the name has it alone, whatever fails afterwards.
                if await client.kv.put(_key(named.name), text, cas=0):
                    await _register(client, named)
                    return named

        raise InputError(
            f"{_MOST} workloads joined as {workload.service} already",
            fix="revoke those that are gone",
        )

    async def names(self) -> set[str]:
        """The names of all whose records Consul has. Raises RegistryError."""
        prefix = _key("").removesuffix("/")
        async with consul_errors("joining"), _client(self._settings) as client:
            _, keys = await client.kv.get(f"{prefix}/", keys=True)
        return {key.removeprefix(f"{prefix}/") for key in keys or ()}

    async def restore(self, workload: Workload) -> None:
        """Write what a Consul that lost its data had of a workload. Raises RegistryError."""
        async with consul_errors("joining"), _client(self._settings) as client:
            text = json.dumps(workload.to_dict(), sort_keys=True)
            # Another control plane may be about to do the same.
            await client.kv.put(_key(workload.name), text, cas=0)
            await _register(client, workload)

    async def remove(self, workload: Workload) -> None:
        """Take a workload's record and endpoints away. Raises RegistryError."""
        async with consul_errors("leaving"), _client(self._settings) as client:
            # Endpoints first: a record without endpoints is harmless, the reverse is not.
            for registration in _registrations(workload):
                await client.agent.service.deregister(registration.id)
            await client.kv.delete(_key(workload.name))


class _client:
    """A client for a few requests."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._settings = settings

    async def __aenter__(self) -> ConsulClient:
        self._open = ConsulClient(self._settings)
        return self._open

    async def __aexit__(self, *_: object) -> None:
        await self._open.close()


async def _register(client: ConsulClient, workload: Workload) -> None:
    for registration in _registrations(workload):
        body = json.dumps(registration.body())
        await client.http.put(_accepted, "/v1/agent/service/register", data=body)


def _named(workload: Workload, number: int, ports: Mapping[int, str]) -> Workload:
    name = f"{JOINED}/{workload.service}-{number}"
    # As registrator names a service with several ports.
    served = [
        ServedPort(
            workload.service if len(ports) == 1 else f"{workload.service}-{port}",
            port,
            protocol,
        )
        for port, protocol in sorted(ports.items())
    ]
    return replace(
        workload, id=name, name=name, project=JOINED, host=JOINED, ports=tuple(served)
    )


def _registrations(workload: Workload) -> list[Registration]:
    own = {
        META_HOST: JOINED,
        META_WORKLOAD: workload.name,
        META_SERVICE: workload.service,
        META_NAMESPACE: workload.namespace,
        META_ACCOUNT: workload.service_account,
    }

    return [
        Registration(
            id=f"{workload.name.replace('/', ':')}:{served.port}",
            name=served.service,
            port=served.port,
            address=workload.address,
            meta=MappingProxyType(
                {**workload.labels, **own, "protocol": served.protocol}
            ),
        )
        for served in workload.ports
    ]


def _key(name: str) -> str:
    return f"{KEY_WORKLOADS}{JOINED}/{name}"


def _accepted(answer: object) -> None:
    code, body = getattr(answer, "code", 0), str(getattr(answer, "body", ""))
    if code != 200:
        raise InputError(
            f"Consul refused the endpoint: {body[:200]}", fix="see its log"
        )
