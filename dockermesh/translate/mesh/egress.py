"""Egress gateways as a service that VirtualServices can name as a destination.

Source: Istio's installation has a Kubernetes Service `istio-egressgateway` in `istio-system` with
the ports 80 and 443, and its tasks route to `istio-egressgateway.istio-system.svc.cluster.local`.
Here it follows from the workloads alone. Invariant: what did not change is the same object, since
translation is cached by identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dockermesh.config.api.gateway import Gateway
from dockermesh.model import Endpoint, Health, Port, Service, Workload, WorkloadKind
from dockermesh.model.contract import EGRESS_GATEWAY, SYSTEM_NAMESPACE
from dockermesh.model.protocol import Protocol, parse_protocol
from dockermesh.translate.mesh.visibility import selects

_NAME = EGRESS_GATEWAY
_LABEL = ("istio", "egressgateway")
_USUAL_PORTS = {80: Protocol.HTTP, 443: Protocol.HTTPS}


def egress_service(
    workloads: Mapping[str, Workload],
    gateways: Iterable[Gateway],
    domain: str,
    before: Mapping[str, Service],
) -> dict[str, Service]:
    """The service of the egress gateways, by hostname; empty where none runs.

    It has the usual ports, and those that Gateways open on it. Its endpoints take no mutual TLS
    unless a Gateway of the user says so (`ISTIO_MUTUAL`), which is why they name no workload.
    """
    # In order: the same endpoints in another one would be another service.
    running = [w for _, w in sorted(workloads.items()) if _is_egress(w)]
    if not running:
        return {}

    host = f"{_NAME}.{domain}"
    ports = _ports(gateways, running)
    made = Service(
        name=_NAME,
        hostname=host,
        ports=ports,
        endpoints=tuple(
            _endpoint(w, port.number) for w in running if w.address for port in ports
        ),
        namespace=SYSTEM_NAMESPACE,
    )
    old = before.get(host)

    return {host: old if old is not None and old == made else made}


def _is_egress(workload: Workload) -> bool:
    key, value = _LABEL
    return workload.kind is WorkloadKind.GATEWAY and workload.labels.get(key) == value


def _ports(
    gateways: Iterable[Gateway], running: Iterable[Workload]
) -> tuple[Port, ...]:
    """The usual ports, and those of Gateways for one of the workloads."""
    found = dict(_USUAL_PORTS)
    for gateway in gateways:
        if not any(selects(gateway.selector, w.labels) for w in running):
            continue
        for server in gateway.servers:
            if server.port is not None:
                found.setdefault(
                    server.port.number,
                    parse_protocol(server.port.protocol) or Protocol.TCP,
                )

    return tuple(Port(number, found[number]) for number in sorted(found))


def _endpoint(workload: Workload, port: int) -> Endpoint:
    return Endpoint(
        address=workload.address,
        port=port,
        id=f"{workload.name}:{port}",
        labels=workload.labels,
        # While a pod is away its record stays, without token.
        health=Health.HEALTHY if workload.token_sha256 else Health.UNHEALTHY,
        namespace=workload.namespace,
        service_account=workload.service_account,
    )
