"""ServiceEntries as services of the mesh, with the WorkloadEntries and workloads that they
select.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dockermesh.config.api.service_entry import Location, ServiceEntry, ServicePort
from dockermesh.config.api.workload import WorkloadEntry
from dockermesh.config.resource import Resource
from dockermesh.model import Endpoint, Port, Resolution, Service, Workload
from dockermesh.model.protocol_selection import infer_protocol
from dockermesh.translate.mesh.visibility import selects

_UNIX = "unix://"


def entry_services(
    resource: Resource[ServiceEntry],
    entries: Iterable[Resource[WorkloadEntry]],
    workloads: Iterable[Workload],
) -> tuple[Service, ...]:
    """A service for every host of the entry."""
    spec = resource.spec
    ports = tuple(_port(p) for p in spec.ports)
    resolution = Resolution(spec.resolution.value)
    # A name among addresses would cost the whole assignment: Envoy resolves none for EDS.
    endpoints = tuple(
        endpoint
        for port in spec.ports
        for endpoint in _endpoints(resource, port, entries, workloads)
        if resolution is not Resolution.STATIC or _is_static(endpoint.address)
    )

    # What is neither address nor network is left out, and the others hold.
    addresses = tuple(filter(None, map(_address, spec.addresses)))

    return tuple(
        Service(
            name=host.split(".")[0],
            hostname=host,
            ports=ports,
            endpoints=endpoints or _by_name(host, spec, resolution),
            namespace=resource.namespace,
            labels=resource.labels,
            resolution=resolution,
            addresses=addresses,
            is_external=spec.location is Location.MESH_EXTERNAL,
            is_declared=True,
            export_to=spec.export_to,
            subject_alt_names=spec.subject_alt_names,
        )
        for host in dict.fromkeys(h.lower() for h in spec.hosts)
    )


def _port(port: ServicePort) -> Port:
    protocol = infer_protocol(
        declared=port.protocol, port_name=port.name, number=port.number
    )
    return Port(port.number, protocol, port.name)


def _by_name(
    host: str, spec: ServiceEntry, resolution: Resolution
) -> tuple[Endpoint, ...]:
    """Where DNS is asked and no endpoint is given, the host itself is the endpoint."""
    is_static = resolution in {Resolution.STATIC, Resolution.NONE}
    if is_static or host.startswith("*") or spec.workload_selector is not None:
        return ()
    return tuple(
        Endpoint(host, p.target_port or p.number, service_port=p.number)
        for p in spec.ports
    )


def merge_services(one: Service, other: Service) -> Service:
    """Two entries for one host: the first decides, the second adds ports and endpoints."""
    numbers = {port.number for port in one.ports}
    return replace(
        one,
        ports=(*one.ports, *(p for p in other.ports if p.number not in numbers)),
        endpoints=_distinct((*one.endpoints, *other.endpoints)),
        addresses=tuple(dict.fromkeys((*one.addresses, *other.addresses))),
    )


def _distinct(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    # Backwards, as of equal keys a dictionary keeps the last value: the first entry's counts.
    return tuple(
        {
            (e.address, e.port, e.service_port): e for e in reversed(tuple(endpoints))
        }.values()
    )[::-1]


def networks(service: Service) -> Iterable[tuple[str, int]]:
    """The networks (address, prefix length) among the service's addresses."""
    for text in service.addresses:
        if "/" in text:
            network = ipaddress.ip_network(text, strict=False)
            yield str(network.network_address), network.prefixlen


def _address(text: str) -> str:
    """A single IP, or a network; a network of one address is that address. Empty if it is
    neither.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ""
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _is_static(address: str) -> bool:
    # Unix sockets, by path or abstract.
    if address.startswith(("/", "@")):
        return True
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _endpoints(
    resource: Resource[ServiceEntry],
    port: ServicePort,
    entries: Iterable[Resource[WorkloadEntry]],
    workloads: Iterable[Workload],
) -> Iterable[Endpoint]:
    spec, namespace = resource.spec, resource.namespace
    for entry in spec.endpoints:
        # Without an address an endpoint is the host itself, as DNS knows it.
        yield _endpoint(entry, port, namespace, entry.address or spec.hosts[0])
    if spec.workload_selector is not None:
        wanted = spec.workload_selector.labels
        yield from _selected_entries(wanted, port, namespace, entries)
        yield from _selected_workloads(wanted, port, namespace, workloads)


def _selected_entries(
    wanted: Mapping[str, str],
    port: ServicePort,
    namespace: str,
    entries: Iterable[Resource[WorkloadEntry]],
) -> Iterator[Endpoint]:
    for entry in entries:
        # Labels stand in the metadata or in the spec; where both say one, that of the spec counts.
        labels = {**entry.labels, **entry.spec.labels}
        if entry.namespace == namespace and selects(wanted, labels):
            yield _endpoint(entry.spec, port, namespace, entry.spec.address)


def _selected_workloads(
    wanted: Mapping[str, str],
    port: ServicePort,
    namespace: str,
    workloads: Iterable[Workload],
) -> Iterator[Endpoint]:
    for workload in workloads:
        if (
            workload.namespace == namespace
            and workload.address
            and selects(wanted, workload.labels)
        ):
            yield Endpoint(
                address=workload.address,
                port=port.target_port or port.number,
                service_port=port.number,
                labels=workload.labels,
                workload=workload.name,
                namespace=namespace,
                service_account=workload.service_account,
            )


def _endpoint(
    entry: WorkloadEntry, port: ServicePort, namespace: str, address: str
) -> Endpoint:
    return Endpoint(
        address=address.removeprefix(_UNIX),
        port=entry.ports.get(port.name) or port.target_port or port.number,
        service_port=port.number,
        labels=entry.labels,
        namespace=namespace,
        service_account=entry.service_account,
        # Istio's label has `.` in place of `/`, which no value of a label may have.
        locality=entry.locality
        or entry.labels.get("istio-locality", "").replace(".", "/"),
        weight=entry.weight or 1,
    )
