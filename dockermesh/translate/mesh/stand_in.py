"""What stands in for endpoints that are away for a moment: it refuses at once, so that requests are
retried.
"""

from __future__ import annotations

from dockermesh.model import Endpoint, Health, Service, Workload
from dockermesh.model.identity import account_of

REFUSING = ("255.255.255.255", 1)
"""To where the kernel lets nobody connect. No address of loopback: an undeclared port of the
service would then be the caller's own.
"""


def standing_in(workload: Workload, port: int) -> Endpoint:
    """What refuses in place of a workload, and is the same in name, so that its service's
    identities stay.
    """
    return Endpoint(
        address=REFUSING[0],
        port=REFUSING[1],
        service_port=port,
        health=Health.UNHEALTHY,
        namespace=workload.namespace,
        service_account=account_of(workload.service_account, workload.service),
    )


def takes_mtls_alone(service: Service) -> bool:
    """Whether every endpoint takes mutual TLS; what stands in for one refuses whoever comes."""
    return (
        service.is_meshed
        and not service.is_external
        and all(
            e.takes_mtls or (e.address, e.port) == REFUSING for e in service.endpoints
        )
    )
