"""Rules of WasmPlugin and TrafficExtension."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dockermesh.config.api.extensions import (
    EnvValueSource,
    TrafficExtension,
    TrafficSelector,
    VmConfig,
    WasmPlugin,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.scope import check_label_selector, check_targets, report

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|[\s\x00-\x1f\x7f]")


def check_wasm_plugin(resource: Resource[WasmPlugin], at: Cursor) -> None:
    """All rules of a WasmPlugin."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    check_targets(spec.target_ref, spec.target_refs, at)
    if spec.url:
        report(at / "url", _check_url(spec.url))
    _check_vm(spec.vm_config, at / "vmConfig")
    _check_match(spec.match, at / "match")


def check_traffic_extension(resource: Resource[TrafficExtension], at: Cursor) -> None:
    """All rules of a TrafficExtension."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    check_targets(None, spec.target_refs, at)
    if spec.wasm is None and spec.lua is None:
        at.error("exactly one of wasm and lua must be set")
    if spec.wasm is not None:
        if spec.wasm.url:
            report(at / "wasm" / "url", _check_url(spec.wasm.url))
        _check_vm(spec.wasm.vm_config, at / "wasm" / "vmConfig")
    if spec.lua is not None and not spec.lua.inline_code.strip():
        (at / "lua" / "inlineCode").error("must not be empty")
    _check_match(spec.match, at / "match")


def _check_url(url: str) -> str:
    """The place of a module; without scheme it is an OCI image."""
    # Without a scheme it is the name of an image, as Docker has them.
    absolute = url if _SCHEME.match(url) else f"oci://{url}"
    try:
        parts = urlsplit(absolute)
        # Only asking for it finds out that it is no number.
        _ = parts.port
    except ValueError as error:
        return f"{url[:80]!r} is not a URL: {error}"
    if parts.scheme not in ("oci", "http", "https", "file"):
        return f"url contains the unsupported scheme {parts.scheme!r}, use oci, http, https or file"
    return f"{url[:80]!r} is not a URL" if _BAD_ESCAPE.search(url) else ""


def _check_vm(vm: VmConfig | None, at: Cursor) -> None:
    names: set[str] = set()
    for index, variable in enumerate(vm.env if vm is not None else ()):
        place = at / "env" / index
        if variable.name in names:
            (place / "name").error(f"duplicate variable {variable.name!r}")
        names.add(variable.name)
        if variable.value_from is not EnvValueSource.INLINE and variable.value:
            (place / "value").error("may only be set when valueFrom is INLINE")


def _check_match(selectors: tuple[TrafficSelector, ...], at: Cursor) -> None:
    for index, selector in enumerate(selectors):
        numbers: set[int] = set()
        for place, port in enumerate(selector.ports):
            if port.number in numbers:
                (at / index / "ports" / place).error(
                    f"port {port.number} is given twice"
                )
            numbers.add(port.number)
