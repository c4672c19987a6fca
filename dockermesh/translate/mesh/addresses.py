"""What answers at which address: for proxies that are known by their address alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dockermesh.model import Endpoint, Port, Protocol, Service


def answering(service: Service) -> Iterator[tuple[Endpoint, Protocol]]:
    """The endpoints of a service, with what is spoken there."""
    protocols = {port.number: port.protocol for port in service.ports}
    for endpoint in service.endpoints:
        number = endpoint.service_port or endpoint.port
        yield endpoint, protocols.get(number, Protocol.AUTO)


@dataclass(slots=True)
class _Answers:
    """What one service has at an address."""

    ports: dict[int, Port]
    locality: str = ""


class Addresses:
    """Follows the endpoints of services. Several services may have one address, and one port: the
    first by hostname counts.
    """

    def __init__(self) -> None:
        self._at: dict[str, dict[str, _Answers]] = {}
        self.has_localities = False

    def ports(self, address: str) -> dict[int, Port]:
        """The ports that are served at an address; UDP is not the mesh's."""
        found: dict[int, Port] = {}
        for _, answers in sorted(self._at.get(address, {}).items(), reverse=True):
            found.update(answers.ports)
        return found

    def locality(self, address: str) -> str:
        """Where the address is; empty if nobody says it."""
        answers = sorted(self._at.get(address, {}).items())
        return next((a.locality for _, a in answers if a.locality), "")

    def follow(
        self,
        before: Mapping[str, Service],
        after: Mapping[str, Service],
        changed: Iterable[str],
    ) -> set[str]:
        """Move on to the services of `after`, of which these are new or other objects. Returns the
        addresses about which anything may be new.
        """
        moved: set[str] = set()
        for host in before.keys() - after.keys():
            moved |= self._forget(before[host])
        for host in changed:
            if host in before:
                moved |= self._forget(before[host])
            moved |= self._remember(after[host])
        return moved

    def _forget(self, service: Service) -> set[str]:
        # What a project has for itself are endpoints of the shared service.
        if service.project:
            return set()
        addresses = {endpoint.address for endpoint in service.endpoints}
        for address in addresses:
            answers = self._at.get(address, {})
            answers.pop(service.hostname, None)
            if not answers:
                self._at.pop(address, None)
        return addresses

    def _remember(self, service: Service) -> set[str]:
        if service.project:
            return set()
        for endpoint, protocol in answering(service):
            answers = self._at.setdefault(endpoint.address, {})
            own = answers.setdefault(service.hostname, _Answers({}))
            # The service that has the same number as UDP does not take it from this one.
            if protocol is not Protocol.UDP:
                own.ports[endpoint.port] = Port(endpoint.port, protocol)
            if endpoint.locality:
                own.locality = endpoint.locality
                self.has_localities = True
        return {endpoint.address for endpoint in service.endpoints}
