"""Adding to, replacing in and removing from ordered lists of filters, at a place that a patch
names.

Source: Istio `pilot/pkg/networking/core/envoyfilter` (insertBeforeFunc and its kin).
"""

from __future__ import annotations

from typing import Any

from dockermesh.config.api.envoy_filter import PatchOperation
from dockermesh.translate.patches.compiling import CompiledPatch


def edit_filters(filters: Any, patch: CompiledPatch, name: str | None) -> None:
    """Apply an operation other than MERGE to a list of filters; `name` is the filter that the patch
    refers to.

    Without one, INSERT_BEFORE is at the beginning, INSERT_AFTER at the end, and REPLACE and REMOVE
    do nothing.
    """
    operation = patch.operation
    place = next((i for i, f in enumerate(filters) if f.name == name), None)

    if operation is PatchOperation.ADD:
        filters.append(patch.value)
    elif operation is PatchOperation.INSERT_FIRST or (
        operation is PatchOperation.INSERT_BEFORE and name is None
    ):
        filters.insert(0, patch.value)
    elif operation is PatchOperation.INSERT_AFTER and name is None:
        filters.append(patch.value)
    elif place is None:
        return
    elif operation is PatchOperation.INSERT_BEFORE:
        filters.insert(place, patch.value)
    elif operation is PatchOperation.INSERT_AFTER:
        filters.insert(place + 1, patch.value)
    elif operation is PatchOperation.REPLACE:
        filters[place].CopyFrom(patch.value)
    elif operation is PatchOperation.REMOVE:
        keep_only(filters, [f for f in filters if f.name != name])


def keep_only(repeated: Any, wanted: list[Any]) -> None:
    """Make these, which are elements of the list or others, the list's only elements."""
    copies = [type(item).FromString(item.SerializeToString()) for item in wanted]
    del repeated[:]
    repeated.extend(copies)
