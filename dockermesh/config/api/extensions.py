"""WasmPlugin and TrafficExtension: code that runs in the proxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from dockermesh.config.api.common import LabelSelector, PolicyTargetReference
from dockermesh.config.fields import REQUIRED, Int32, Length, Pattern, PortNumber

_SHA256 = Pattern(r"^$|^[a-f0-9]{64}$", "64 characters long, in lower-case hexadecimal")


class PluginPhase(StrEnum):
    """Where in the filter chain the code runs."""

    UNSPECIFIED_PHASE = "UNSPECIFIED_PHASE"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class ExecutionPhase(StrEnum):
    """Where in the filter chain an extension runs."""

    UNSPECIFIED = "EXECUTION_PHASE_UNSPECIFIED"
    AUTHN = "EXECUTION_PHASE_AUTHN"
    AUTHZ = "EXECUTION_PHASE_AUTHZ"
    STATS = "EXECUTION_PHASE_STATS"


class TrafficMode(StrEnum):
    """The side of traffic that is matched."""

    UNDEFINED = "UNDEFINED"
    CLIENT = "CLIENT"
    SERVER = "SERVER"
    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"


class PullPolicy(StrEnum):
    """When the module is pulled."""

    UNSPECIFIED_POLICY = "UNSPECIFIED_POLICY"
    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"


class PluginType(StrEnum):
    """The kind of filter."""

    UNSPECIFIED_PLUGIN_TYPE = "UNSPECIFIED_PLUGIN_TYPE"
    HTTP = "HTTP"
    NETWORK = "NETWORK"


class FailStrategy(StrEnum):
    """What happens when the code fails."""

    # Requests get 5xx while the module cannot be loaded or has crashed.
    FAIL_CLOSE = "FAIL_CLOSE"
    FAIL_OPEN = "FAIL_OPEN"
    FAIL_RELOAD = "FAIL_RELOAD"


class EnvValueSource(StrEnum):
    """Where a variable's value comes from."""

    INLINE = "INLINE"
    HOST = "HOST"


@dataclass(frozen=True, slots=True)
class EnvVar:
    """An environment variable of the virtual machine."""

    name: Annotated[str, Length(1, 256)] = field(default="", metadata=REQUIRED)
    value_from: EnvValueSource = EnvValueSource.INLINE
    value: Annotated[str, Length(high=2048)] = ""


@dataclass(frozen=True, slots=True)
class VmConfig:
    """Settings of the virtual machine."""

    env: Annotated[tuple[EnvVar, ...], Length(high=256)] = ()


@dataclass(frozen=True, slots=True)
class PortMatch:
    """A port."""

    number: PortNumber = field(default=0, metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """The traffic that passes the code."""

    mode: TrafficMode = TrafficMode.UNDEFINED
    ports: tuple[PortMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class WasmPlugin:
    """A WebAssembly module in the selected proxies."""

    ONEOFS: ClassVar = (("selector", "target_ref", "target_refs"),)
    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    url: Annotated[str, Length(low=1)] = field(default="", metadata=REQUIRED)
    # Optional for images, whose tags may change; with it nothing else is run.
    sha256: Annotated[str, _SHA256] = ""
    image_pull_policy: PullPolicy = PullPolicy.UNSPECIFIED_POLICY
    image_pull_secret: Annotated[str, Length(1, 253)] | None = None
    verification_key: str = ""
    plugin_config: Mapping[str, Any] | None = None
    plugin_name: Annotated[str, Length(1, 256)] | None = None
    phase: PluginPhase = PluginPhase.UNSPECIFIED_PHASE
    # The highest runs first.
    priority: Int32 | None = None
    fail_strategy: FailStrategy = FailStrategy.FAIL_CLOSE
    vm_config: VmConfig | None = None
    match: tuple[TrafficSelector, ...] = ()
    type: PluginType = PluginType.UNSPECIFIED_PLUGIN_TYPE


@dataclass(frozen=True, slots=True)
class WasmConfig:
    """A WebAssembly filter."""

    url: Annotated[str, Length(low=1)] = field(default="", metadata=REQUIRED)
    sha256: Annotated[str, _SHA256] = ""
    image_pull_policy: PullPolicy = PullPolicy.UNSPECIFIED_POLICY
    image_pull_secret: Annotated[str, Length(1, 253)] | None = None
    verification_key: str = ""
    plugin_config: Mapping[str, Any] | None = None
    plugin_name: Annotated[str, Length(1, 256)] | None = None
    fail_strategy: FailStrategy = FailStrategy.FAIL_CLOSE
    vm_config: VmConfig | None = None
    type: PluginType = PluginType.UNSPECIFIED_PLUGIN_TYPE


@dataclass(frozen=True, slots=True)
class LuaConfig:
    """A Lua filter."""

    inline_code: Annotated[str, Length(1, 65536)] = field(default="", metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class TrafficExtension:
    """A WebAssembly or Lua filter in the selected proxies."""

    ONEOFS: ClassVar = (("selector", "target_refs"), ("wasm", "lua"))
    selector: LabelSelector | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    phase: ExecutionPhase = ExecutionPhase.UNSPECIFIED
    priority: Int32 | None = None
    match: tuple[TrafficSelector, ...] = ()
    wasm: WasmConfig | None = None
    lua: LuaConfig | None = None
