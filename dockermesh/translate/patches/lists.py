"""Adding to, replacing in and removing from ordered lists of filters, at a place that a patch
names.

Source: Istio `pilot/pkg/networking/core/envoyfilter` (insertBeforeFunc and its kin).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dockermesh.config.api.envoy_filter import PatchOperation
from dockermesh.translate.patches.compiling import CompiledPatch
from dockermesh.translate.patches.merging import merge_extension


def patch_filters(
    filters: Any,
    patches: Sequence[CompiledPatch],
    named: Callable[[CompiledPatch], str | None],
) -> None:
    """Apply patches to a list of filters; `named` says which one a patch refers to, None if to all.

    Merges come after all others, and so reach what those have put in.
    """
    for patch in patches:
        if not patch.merges:
            edit_filters(filters, patch, named(patch))

    for one in filters:
        for patch in patches:
            if patch.merges and named(patch) in (None, one.name):
                merge_extension(one, patch.value)


def edit_filters(filters: Any, patch: CompiledPatch, name: str | None) -> None:
    """Apply an operation other than MERGE to a list of filters; `name` is the filter that the patch
    refers to.

    Without one, INSERT_BEFORE is at the beginning, INSERT_AFTER at the end, and REPLACE and REMOVE
    do nothing.
    """
    operation = patch.operation
    found = next((i for i, f in enumerate(filters) if f.name == name), None)
    # The first place is there whether or not the filter is; a route's is not (`routes`).
    is_named = name is not None and operation is not PatchOperation.INSERT_FIRST
    place = place_of_insert(operation, found, len(filters), is_named=is_named)

    if place is not None:
        filters.insert(place, patch.value)
    if found is None:
        return

    if operation is PatchOperation.REPLACE:
        filters[found].CopyFrom(patch.value)
    elif operation is PatchOperation.REMOVE:
        # All of this name, not the first alone.
        keep_only(filters, [f for f in filters if f.name != name])


def place_of_insert(
    operation: PatchOperation, found: int | None, size: int, *, is_named: bool
) -> int | None:
    """Where in a list of this size the patch's value goes; None if it does not go in.

    `found` is the place of the neighbour that the patch names. Without a name it goes to an end,
    and nowhere if there is no such neighbour.
    """
    if operation is PatchOperation.ADD:
        return size

    if is_named and found is None:
        return None
    before, after = (found, found + 1) if is_named and found is not None else (0, size)
    return {
        PatchOperation.INSERT_FIRST: 0,
        PatchOperation.INSERT_BEFORE: before,
        PatchOperation.INSERT_AFTER: after,
    }.get(operation)


def keep_only(repeated: Any, wanted: list[Any]) -> None:
    """Make these, which are elements of the list or others, the list's only elements."""
    copies = [type(item).FromString(item.SerializeToString()) for item in wanted]
    del repeated[:]
    repeated.extend(copies)
