"""A catalog and a proxy read from files, for translation without a registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dockermesh.config.loading import load_documents
from dockermesh.errors import InputError
from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    ServedPort,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.model.contract import DEFAULT_SERVICE_DOMAIN
from dockermesh.model.protocol_selection import infer_protocol
from dockermesh.translate.mesh.known_proxies import proxy_of
from dockermesh.translate.mesh.state import Proxy


def read_catalog(file: Path, domain: str = DEFAULT_SERVICE_DOMAIN) -> Catalog:
    """The catalog in a YAML file: `services: [{name, ports, endpoints}]`. What has a name without
    dots gets a host name below `domain`.

    Raises InputError where the file cannot be read or has another form.
    """
    loaded = load_documents(_content(file))
    if loaded.error is not None:
        raise InputError(
            loaded.error.message,
            where=f"{file}:{loaded.error.line}",
            fix="correct the YAML",
        )

    data = loaded.documents[0].data if loaded.documents else {}
    services: dict[str, Service] = {}

    for index, entry in enumerate(_list(data, "services", str(file))):
        service = _service(entry, domain, f"{file}: services[{index}]")
        services[service.hostname] = service

    return Catalog(services=services, workloads=_workloads(services))


def read_proxy(file: Path) -> Proxy:
    """The proxy in a JSON file `{id, type, namespace, labels, ip}`.

    Raises InputError where the file cannot be read or has another form.
    """
    try:
        data = json.loads(_content(file))
    except ValueError as error:
        raise InputError(
            f"is not JSON: {error}",
            where=str(file),
            fix="write {id, type, namespace, labels, ip}",
        ) from None

    if not isinstance(data, dict):
        raise InputError(
            "must be a JSON object",
            where=str(file),
            fix="write {id, type, namespace, labels, ip}",
        )

    kind = data.get("type") or WorkloadKind.SIDECAR.value
    if kind not in {k.value for k in WorkloadKind}:
        raise InputError(
            f"{kind!r} is no type of proxy",
            where=f"{file}: type",
            fix="write sidecar or router",
        )

    return Proxy(
        id=str(data.get("id") or "proxy"),
        kind=WorkloadKind(kind),
        namespace=str(data.get("namespace") or "default"),
        address=str(data.get("ip") or ""),
        labels=_labels(data, str(file)),
        locality=str(data.get("locality") or ""),
        metadata=_mapping(data, "metadata", str(file)),
    )


def workload_proxy(catalog: Catalog, name: str) -> Proxy:
    """The proxy of a workload of the catalog.

    Raises InputError if the catalog has no such workload.
    """
    workload = catalog.workloads.get(name)
    if workload is None:
        known = ", ".join(sorted(catalog.workloads)) or "none"
        raise InputError(
            f"no workload is named {name!r}",
            where="--workload",
            fix=f"the catalog has: {known}",
        )

    return proxy_of(workload, {})


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=str(file), fix="check the path"
        ) from None


def _list(data: Any, key: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(data, dict):
        raise InputError(
            f"must be a mapping with {key!r}", where=where, fix=f"write {key}: [...]"
        )
    items = data.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(
            f"{key} must be a list of mappings",
            where=where,
            fix=f"write {key}: [{{...}}]",
        )
    return items


def _labels(data: Mapping[str, Any], where: str) -> dict[str, str]:
    return {key: str(value) for key, value in _mapping(data, "labels", where).items()}


def _mapping(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = data.get(key) or {}
    if not isinstance(found, dict):
        raise InputError(
            f"{key} must be a mapping", where=where, fix=f"write {key}: {{key: value}}"
        )
    return {str(name): value for name, value in found.items()}


def _number(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data.get(key) or 0
    if not isinstance(value, int) or not 0 <= value < 65536:
        raise InputError(
            f"{value!r} is not a port",
            where=f"{where}: {key}",
            fix="write a number from 1 to 65535",
        )
    return value


def _service(data: Mapping[str, Any], domain: str, where: str) -> Service:
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(
            "name is required", where=where, fix="write the service's name"
        )

    ports = _ports(data, where)
    namespace = str(data.get("namespace") or "default")
    own_hostname = name if "." in name else f"{name}.{domain}"
    hostname = str(data.get("hostname") or own_hostname).lower()

    endpoints = [
        endpoint
        for index, entry in enumerate(_list(data, "endpoints", where))
        for endpoint in _endpoints(
            entry, ports, namespace, f"{where}.endpoints[{index}]"
        )
    ]

    return Service(
        name=name.partition(".")[0],
        hostname=hostname,
        ports=tuple(ports),
        endpoints=tuple(endpoints),
        namespace=namespace,
        labels=_labels(data, where),
    )


def _ports(data: Mapping[str, Any], where: str) -> list[Port]:
    ports = []
    for index, entry in enumerate(_list(data, "ports", where)):
        number = _number(entry, "port", f"{where}.ports[{index}]")
        label = str(entry.get("name") or "")
        declared = str(entry.get("protocol") or "")
        protocol = infer_protocol(declared=declared, port_name=label, number=number)
        ports.append(Port(number, protocol, label))
    return ports


def _served_ports(given: int, ports: list[Port]) -> list[tuple[int, int]]:
    """The endpoint's port with the service's, for each port of the service that it serves."""
    numbers = [port.number for port in ports]
    if not given:
        return [(number, number) for number in numbers]
    if given in numbers or not numbers:
        return [(given, given)]

    # A port of its own: as with registrator, where host and container ports differ.
    return [(given, numbers[0])]


def _endpoints(
    data: Mapping[str, Any], ports: list[Port], namespace: str, where: str
) -> list[Endpoint]:
    """One endpoint for the port it names; for every port of the service if it names none."""
    given = _number(data, "port", where)

    return [
        Endpoint(
            address=str(data.get("address") or ""),
            port=port,
            service_port=service_port,
            labels=_labels(data, where),
            health=Health.HEALTHY if data.get("healthy", True) else Health.UNHEALTHY,
            workload=str(data.get("workload") or ""),
            namespace=namespace,
            service_account=str(data.get("serviceAccount") or ""),
            locality=str(data.get("locality") or ""),
            weight=int(data.get("weight") or 1),
        )
        for port, service_port in _served_ports(given, ports)
    ]


def _workloads(services: Mapping[str, Service]) -> dict[str, Workload]:
    """The workloads that endpoints name, each with all ports that it serves."""
    found: dict[str, Workload] = {}
    for service in services.values():
        protocols = {port.number: port.protocol.value for port in service.ports}
        for endpoint in service.endpoints:
            if not endpoint.workload:
                continue
            known = found.get(endpoint.workload)
            protocol = protocols.get(endpoint.service_port, "auto")
            served = (
                *(known.ports if known else ()),
                ServedPort(service.name, endpoint.port, protocol),
            )
            found[endpoint.workload] = Workload(
                id=endpoint.workload,
                name=endpoint.workload,
                service=service.name,
                namespace=endpoint.namespace,
                service_account=endpoint.service_account,
                address=endpoint.address,
                labels={**(known.labels if known else {}), **endpoint.labels},
                ports=served,
            )

    return found
