"""Compose's mappings of texts, in either of their forms.

Light, as commands load it that never inject anything: `inject/settings.py` needs the models of
Istio's resources, which take longer to load than all else of `down`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def string_map(value: Any) -> dict[str, str]:
    """A Compose mapping in either of its forms, `{k: v}` or `[k=v]`; an absent value is empty."""
    if isinstance(value, Mapping):
        return {str(k): "" if v is None else str(v) for k, v in value.items()}
    pairs = (str(item).partition("=") for item in value or ())
    return {key: text for key, _, text in pairs}
