"""EnvoyFilters: operations that do nothing, or depend on the order of filters.

Source of the rules: `pkg/config/analysis/analyzers/envoyfilter` of Istio.
"""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    ADD_MISUSED,
    RELATIVE_PATCH,
    RELATIVE_PATCH_VERSION,
    REMOVE_MISUSED,
    REPLACE_MISUSED,
)
from dockermesh.analysis.objects import AnalyzedObject
from dockermesh.config.api.envoy_filter import ApplyTo, ConfigPatch, PatchOperation
from dockermesh.config.findings import Finding

_ROUTES = frozenset({ApplyTo.ROUTE_CONFIGURATION, ApplyTo.HTTP_ROUTE})
_FILTERS = frozenset({ApplyTo.HTTP_FILTER, ApplyTo.NETWORK_FILTER})
# Where Istio ignores an operation, and what is said then.
_IGNORED = {
    PatchOperation.ADD: (_ROUTES, ADD_MISUSED),
    PatchOperation.REMOVE: (_ROUTES, REMOVE_MISUSED),
    PatchOperation.REPLACE: (frozenset(ApplyTo) - _FILTERS, REPLACE_MISUSED),
}
# What these stand beside may be there or not, depending on the order of filters.
_RELATIVE = frozenset(
    {
        PatchOperation.REMOVE,
        PatchOperation.REPLACE,
        PatchOperation.INSERT_BEFORE,
        PatchOperation.INSERT_AFTER,
    }
)


def operations(context: Context) -> Iterator[Finding]:
    """Each patch's operation must fit what it is applied to."""
    versioned: set[str] = set()
    for item in context.istio("EnvoyFilter"):
        for index, patch in enumerate(item.spec.config_patches):
            if patch.patch is None:
                break

            name = _filter_name(patch)
            yield from _operation(item, index, patch, name in versioned)
            if (
                patch.match is not None
                and patch.match.proxy is not None
                and patch.match.proxy.proxy_version
            ):
                versioned.add(name)


def _operation(
    item: AnalyzedObject, index: int, patch: ConfigPatch, is_versioned: bool
) -> Iterator[Finding]:
    assert patch.patch is not None
    operation, path = patch.patch.operation, ("spec", "configPatches", index)

    places, misuse = _IGNORED.get(operation, (frozenset(), None))
    if misuse is not None and patch.apply_to in places:
        yield found(item, misuse, at=path)
    # A priority is the user's own word on the order.
    elif operation in _RELATIVE and item.spec.priority == 0:
        relative = RELATIVE_PATCH_VERSION if is_versioned else RELATIVE_PATCH
        yield found(item, relative, at=path)


def _filter_name(patch: ConfigPatch) -> str:
    """The filter that a patch with a value is about: the one it brings, else the one it looks
    for.
    """
    assert patch.patch is not None
    value = patch.patch.value
    if not value:
        return ""
    name = value.get("name")
    if name is not None:
        return str(name)
    listener = patch.match.listener if patch.match is not None else None
    chain = listener.filter_chain if listener is not None else None
    return chain.filter.name if chain is not None and chain.filter is not None else ""
