"""Patches of route tables, virtual hosts and routes.

Source: Istio `pilot/pkg/networking/core/envoyfilter/rc_patch.go`, whose order this keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dockermesh.config.api.envoy_filter import (
    ApplyTo,
    PatchOperation,
    RouteAction,
    RouteConfigurationMatch,
)
from dockermesh.translate.patches.compiling import CompiledPatch, of_kind
from dockermesh.translate.patches.lists import keep_only, place_of_insert
from dockermesh.translate.patches.merging import merge

Patches = Sequence[CompiledPatch]


def patch_table(table: Any, patches: Patches, *, is_gateway: bool) -> None:
    """Apply the patches, all of the table's context."""
    own = [
        p
        for p in patches
        if _matches_table(table, p.match.route_configuration, is_gateway=is_gateway)
    ]
    for patch in of_kind(own, ApplyTo.ROUTE_CONFIGURATION):
        if patch.merges:
            merge(table, patch.value, replaces_lists=patch.replaces_lists)

    hosts = of_kind(own, ApplyTo.VIRTUAL_HOST)
    routes = of_kind(own, ApplyTo.HTTP_ROUTE)
    if hosts or routes:
        _patch_hosts(table, hosts, routes)


def _patch_hosts(table: Any, patches: Patches, route_patches: Patches) -> None:
    kept = [
        host
        for host in table.virtual_hosts
        if _patch_host(host, patches, route_patches)
    ]
    if len(kept) != len(table.virtual_hosts):
        keep_only(table.virtual_hosts, kept)
    # An added host has no host to be compared with, so its conditions are those on the table.
    table.virtual_hosts.extend(
        p.value for p in patches if p.operation is PatchOperation.ADD
    )


def _patch_host(host: Any, patches: Patches, route_patches: Patches) -> bool:
    """Patch a virtual host and its routes. Returns whether it stays."""
    for patch in patches:
        if not _matches_host(host, patch.match.route_configuration):
            continue
        if patch.operation is PatchOperation.REMOVE:
            return False

        if patch.merges:
            merge(host, patch.value, replaces_lists=patch.replaces_lists)
        elif patch.operation is PatchOperation.REPLACE:
            host.CopyFrom(patch.value)

    own = [p for p in route_patches if _matches_host(host, p.match.route_configuration)]
    if own:
        _patch_routes(host, own)
    return True


def _patch_routes(host: Any, patches: Patches) -> None:
    # What one patch adds is neither merged into nor removed by another.
    kept = [route for route in host.routes if _patch_route(route, patches)]
    if len(kept) != len(host.routes):
        keep_only(host.routes, kept)
    for patch in patches:
        _add_route(host.routes, patch)


def _patch_route(route: Any, patches: Patches) -> bool:
    for patch in patches:
        if not _matches_route(route, patch.match.route_configuration):
            continue
        if patch.operation is PatchOperation.REMOVE:
            return False

        if patch.merges:
            merge(route, patch.value, replaces_lists=patch.replaces_lists)

    return True


def _add_route(routes: Any, patch: CompiledPatch) -> None:
    wanted = patch.match.route_configuration
    names_route = (
        wanted is not None
        and wanted.vhost is not None
        and wanted.vhost.route is not None
    )
    found = next(
        (i for i, route in enumerate(routes) if _matches_route(route, wanted)), None
    )

    place = place_of_insert(patch.operation, found, len(routes), is_named=names_route)
    if place is not None:
        routes.insert(place, patch.value)


def _matches_table(
    table: Any, wanted: RouteConfigurationMatch | None, *, is_gateway: bool
) -> bool:
    if wanted is None:
        return True
    if wanted.name and wanted.name != table.name:
        return False

    port, port_name, gateway = (
        _gateway_parts(table.name) if is_gateway else (_port(table.name), "", "")
    )
    if wanted.port_number and wanted.port_number != port:
        return False
    # Names of ports and gateways are only in the names of a gateway's tables.
    if not is_gateway:
        return True
    return wanted.port_name in ("", port_name) and wanted.gateway in ("", gateway)


def _port(name: str) -> int:
    """The port of `9080`, `inbound|9080||` or `reviews.service.consul:9080`."""
    text = (
        name.split("|")[1] if name.startswith("inbound|") else name.rpartition(":")[2]
    )
    # `²` is a digit to Python, and no number.
    return int(text) if text.isascii() and text.isdigit() else 0


def _gateway_parts(name: str) -> tuple[int, str, str]:
    """Port, name of the port and `namespace/gateway` of `http.80` or
    `https.443.https.gateway.namespace`.
    """
    parts = name.split(".")
    port = (
        int(parts[1])
        if len(parts) > 1 and parts[1].isascii() and parts[1].isdigit()
        else 0
    )
    if parts[0] != "https" or len(parts) < 5:
        return port, "", ""
    return port, parts[2], f"{parts[-1]}/{'.'.join(parts[3:-1])}"


def _matches_host(host: Any, wanted: RouteConfigurationMatch | None) -> bool:
    if wanted is None or wanted.vhost is None:
        return True
    if wanted.vhost.name and wanted.vhost.name != host.name:
        return False
    return not wanted.vhost.domain_name or wanted.vhost.domain_name in host.domains


def _matches_route(route: Any, wanted: RouteConfigurationMatch | None) -> bool:
    match = (
        wanted.vhost.route if wanted is not None and wanted.vhost is not None else None
    )
    if match is None:
        return True
    if match.name and match.name != route.name:
        return False
    if match.action is RouteAction.ANY:
        return True
    return bool(route.WhichOneof("action") == match.action.value.lower())
