"""Rules of what routes of every protocol share: where they lead, and for whom they are."""

from __future__ import annotations

from collections.abc import Sequence

from dockermesh.config.api.common import Percent
from dockermesh.config.api.virtual_service import (
    Destination,
    HTTPRouteDestination,
    RouteDestination,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.rules.headers import check_headers
from dockermesh.config.rules.names import (
    check_fqdn,
    check_host,
    check_label,
    check_port,
    is_label,
)
from dockermesh.config.rules.scope import report


def check_gateway_names(names: tuple[str, ...], at: Cursor) -> None:
    """Names of gateways, `namespace/name` or `name`."""
    for index, name in enumerate(names):
        namespace, slash, local = name.partition("/")
        if not slash:
            # Before 1.1, a gateway in another namespace was named by a domain name.
            report(at / index, check_fqdn(name))
            if "." in name:
                parts = name.split(".")
                (at / index).warn(
                    f"old form of a gateway's name, write {parts[1]}/{parts[0]}"
                )
            continue
        report(at / index, check_label(namespace, "namespace"))
        report(at / index, check_label(local, "gateway name"))


def check_source(port: int, namespace: str, at: Cursor) -> None:
    """The port and the source namespace of a match, if given."""
    if port:
        report(at / "port", check_port(port))
    if namespace and not is_label(namespace):
        (at / "sourceNamespace").error(f"{namespace[:80]!r} is not a valid namespace")


def check_destinations(
    route: Sequence[HTTPRouteDestination | RouteDestination], at: Cursor
) -> None:
    """Destinations and their weights."""
    for index, entry in enumerate(route):
        if entry.destination is not None:
            check_destination(entry.destination, at / index / "destination")
        if entry.weight < 0:
            (at / index / "weight").error(
                f"weight must not be negative: {entry.weight}"
            )
        if isinstance(entry, HTTPRouteDestination):
            check_headers(entry.headers, at / index / "headers")
    # One destination gets everything, whatever its weight.
    if len(route) > 1 and sum(entry.weight for entry in route) == 0:
        at.error("the total weight of the destinations is 0")


def check_destination(destination: Destination, at: Cursor) -> None:
    """A host, its subset and its port."""
    if destination.host == "*":
        (at / "host").error("a destination must be a host, not *")
    else:
        report(at / "host", check_host(destination.host))
    if destination.subset:
        report(at / "subset", check_label(destination.subset, "subset name"))
    if destination.port is not None:
        report(at / "port" / "number", check_port(destination.port.number))


def check_percentage(percentage: Percent | None, at: Cursor) -> None:
    """0, or 0.0001 to 100."""
    if percentage is not None:
        value = percentage.value
        # Envoy counts chances in millionths.
        if not (value == 0 or 0.0001 <= value <= 100):
            (at / "value").error(
                f"percentage {value:g} is neither 0 nor in the range 0.0001 to 100"
            )
