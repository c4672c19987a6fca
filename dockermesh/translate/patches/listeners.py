"""Patches of listeners and of what is in them: listener filters, filter chains, network filters,
HTTP filters.

Source: Istio `pilot/pkg/networking/core/envoyfilter/listener_patch.go`, whose order this keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from dockermesh.config.api.envoy_filter import ApplyTo, FilterChainMatch, PatchOperation
from dockermesh.translate.envoy.connection_manager import put_in_order
from dockermesh.translate.envoy.names import VIRTUAL_INBOUND, VIRTUAL_OUTBOUND
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.patches.compiling import CompiledPatch, of_kind
from dockermesh.translate.patches.lists import edit_filters, keep_only, patch_filters
from dockermesh.translate.patches.merging import merge, merge_extension

CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
_VIRTUAL = frozenset({VIRTUAL_INBOUND, VIRTUAL_OUTBOUND})
_JUDGE = frozenset(
    {
        ApplyTo.NETWORK_FILTER,
        ApplyTo.HTTP_FILTER,
        ApplyTo.ROUTE_CONFIGURATION,
        ApplyTo.VIRTUAL_HOST,
        ApplyTo.HTTP_ROUTE,
    }
)
Patches = Sequence[CompiledPatch]
InlineRoutes = Callable[[Any, Patches], None]


def patch_listener(listener: Any, patches: Patches, patch_routes: InlineRoutes) -> bool:
    """Apply the patches, all of the listener's context. Returns whether the listener stays.

    `patch_routes` patches a route table that stands in a connection manager.
    """
    for patch in of_kind(patches, ApplyTo.LISTENER):
        if not _matches_listener(listener, patch):
            continue
        if patch.operation is PatchOperation.REMOVE:
            return False

        if patch.merges:
            merge(listener, patch.value, replaces_lists=patch.replaces_lists)

    for patch in of_kind(patches, ApplyTo.LISTENER_FILTER):
        # Istio has no merge of listener filters.
        if _matches_listener(listener, patch) and not patch.merges:
            name = (
                patch.match.listener.listener_filter
                if patch.match.listener is not None
                else ""
            )
            edit_filters(listener.listener_filters, patch, name or None)

    _patch_chains(listener, patches, patch_routes)
    return True


def _patch_chains(listener: Any, patches: Patches, patch_routes: InlineRoutes) -> None:
    kept = [
        chain
        for chain in listener.filter_chains
        if _patch_chain(listener, chain, patches, patch_routes)
    ]
    if len(kept) != len(listener.filter_chains):
        keep_only(listener.filter_chains, kept)

    # A patch without conditions is for this one, too.
    if listener.HasField("default_filter_chain"):
        chain = listener.default_filter_chain
        if not _patch_chain(listener, chain, patches, patch_routes):
            listener.ClearField("default_filter_chain")

    for patch in of_kind(patches, ApplyTo.FILTER_CHAIN):
        # Last: a chain that is added is not patched.
        if patch.operation is PatchOperation.ADD and _matches_listener(listener, patch):
            listener.filter_chains.append(patch.value)


def _patch_chain(
    listener: Any, chain: Any, patches: Patches, patch_routes: InlineRoutes
) -> bool:
    """Patch a chain and its filters. Returns whether it stays."""
    for patch in of_kind(patches, ApplyTo.FILTER_CHAIN):
        if not _matches_chain(listener, chain, patch):
            continue
        if patch.operation is PatchOperation.REMOVE:
            return False
        if patch.merges:
            _merge_chain(chain, patch)

    own = [p for p in patches if _matches_chain(listener, chain, p)]
    patch_filters(chain.filters, of_kind(own, ApplyTo.NETWORK_FILTER), _filter_name)

    http = of_kind(own, ApplyTo.HTTP_FILTER)
    for network_filter in chain.filters:
        if network_filter.name == CONNECTION_MANAGER and network_filter.HasField(
            "typed_config"
        ):
            is_judged = any(p.apply_to in _JUDGE for p in own)
            _patch_manager(
                network_filter, http, patches, patch_routes, is_judged=is_judged
            )

    return True


def _merge_chain(chain: Any, patch: CompiledPatch) -> None:
    """Merge into a chain; a transport socket of the same name is merged by its content, and then
    nothing else is.
    """
    value = patch.value
    has_both = value.HasField("transport_socket") and chain.HasField("transport_socket")
    if has_both and value.transport_socket.name == chain.transport_socket.name:
        merge_extension(chain.transport_socket, value.transport_socket)
    else:
        merge(chain, value, replaces_lists=patch.replaces_lists)


def _patch_manager(
    network_filter: Any,
    patches: Patches,
    all_patches: Patches,
    patch_routes: InlineRoutes,
    *,
    is_judged: bool,
) -> None:
    own = [p for p in patches if _filter_name(p) in (None, network_filter.name)]
    manager = hcm_pb2.HttpConnectionManager()
    if not network_filter.typed_config.Unpack(manager):
        return

    before = hcm_pb2.HttpConnectionManager.FromString(manager.SerializeToString())
    patch_filters(manager.http_filters, own, _sub_filter_name)
    if manager.HasField("route_config"):
        patch_routes(manager.route_config, all_patches)
    # Whether a filter or route of the user's decides by what requests say, nobody can tell.
    if is_judged:
        put_in_order(manager)
    if manager != before:
        network_filter.typed_config.CopyFrom(pack(manager))


def _filter_name(patch: CompiledPatch) -> str | None:
    """The network filter that the patch refers to."""
    chain = (
        patch.match.listener.filter_chain if patch.match.listener is not None else None
    )
    return chain.filter.name if chain is not None and chain.filter is not None else None


def _sub_filter_name(patch: CompiledPatch) -> str | None:
    """The HTTP filter that the patch refers to."""
    chain = (
        patch.match.listener.filter_chain if patch.match.listener is not None else None
    )
    named = chain.filter if chain is not None else None
    return (
        named.sub_filter.name
        if named is not None and named.sub_filter is not None
        else None
    )


def _matches_listener(listener: Any, patch: CompiledPatch) -> bool:
    wanted = patch.match.listener
    if wanted is None:
        return True
    if wanted.name and wanted.name != listener.name:
        return False
    if patch.apply_to is not ApplyTo.LISTENER and listener.name in _VIRTUAL:
        # Their ports are in the conditions of their chains.
        return True

    return (
        not wanted.port_number
        or listener.address.socket_address.port_value == wanted.port_number
    )


def _matches_chain(listener: Any, chain: Any, patch: CompiledPatch) -> bool:
    if not _matches_listener(listener, patch):
        return False
    wanted, has = patch.match.listener, chain.filter_chain_match
    if wanted is None:
        return True
    is_virtual = listener.name in _VIRTUAL
    if (
        is_virtual
        and wanted.port_number
        and has.destination_port.value != wanted.port_number
    ):
        return False
    return wanted.filter_chain is None or _fulfils(chain, has, wanted.filter_chain)


def _fulfils(chain: Any, has: Any, wanted: FilterChainMatch) -> bool:
    single = (
        (wanted.name, chain.name),
        (wanted.transport_protocol, has.transport_protocol),
        (wanted.destination_port, has.destination_port.value),
    )
    if any(value and value != own for value, own in single):
        return False
    if wanted.sni and wanted.sni not in has.server_names:
        return False

    protocols = wanted.application_protocols
    # A list in one text; the chain must have all of them.
    return not protocols or set(protocols.split(",")) <= set(has.application_protocols)
