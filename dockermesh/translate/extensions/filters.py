"""The filters of a plugin: what stands in the listener, and what the proxy gets for it by ECDS.

The listener names the filter alone, so that a module that Envoy does not take, or that is not to be
had, costs no more than what its `failStrategy` says: the default stands in, and all else of the
listener goes on. Modules are in no listener, which proxies get anew at every change.
"""

from __future__ import annotations

import json
from typing import Any

from envoy.config.core.v3 import base_pb2, config_source_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as tcp_rbac_pb2
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as tcp_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from google.protobuf import any_pb2, wrappers_pb2

from dockermesh.config.api.extensions import EnvValueSource, FailStrategy, VmConfig
from dockermesh.translate.envoy.discovery import ads
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.extensions.plugins import Plugin
from dockermesh.xds.protobuf import serialised
from dockermesh.xds.resources import EXTENSION, Resource, make_resource

_PATIENCE_S = 15.0
"""How long a listener waits for its plugins before the default stands in, as in Istio."""
_RUNTIME = "envoy.wasm.runtime.v8"
_POLICIES = {
    FailStrategy.FAIL_CLOSE: wasm_pb2.FAIL_CLOSED,
    FailStrategy.FAIL_OPEN: wasm_pb2.FAIL_OPEN,
    FailStrategy.FAIL_RELOAD: wasm_pb2.FAIL_RELOAD,
}
# No name that a resource can have needs quoting in Lua.
_REFUSAL = """
function envoy_on_request(handle)
  handle:respond({[":status"] = "503"}, "the module of WasmPlugin %s is not available\\n")
end
"""


def http_placeholder(plugin: Plugin) -> hcm_pb2.HttpFilter:
    """What stands among the filters of requests."""
    if is_fixed(plugin):
        return hcm_pb2.HttpFilter(name=plugin.name, typed_config=_standing_in(plugin))
    types = (http_wasm_pb2.Wasm, lua_pb2.Lua, http_rbac_pb2.RBAC)
    return hcm_pb2.HttpFilter(
        name=plugin.name, config_discovery=_discovery(plugin, types)
    )


def network_placeholder(plugin: Plugin) -> listener_components_pb2.Filter:
    """What stands among the filters of connections."""
    if is_fixed(plugin):
        standing_in = _standing_in(plugin)
        return listener_components_pb2.Filter(
            name=plugin.name, typed_config=standing_in
        )
    types = (tcp_wasm_pb2.Wasm, tcp_rbac_pb2.RBAC)
    return listener_components_pb2.Filter(
        name=plugin.name, config_discovery=_discovery(plugin, types)
    )


def extension(plugin: Plugin) -> Resource:
    """What proxies get by ECDS."""
    has_code = bool(plugin.running.module.content)
    made = extension_pb2.TypedExtensionConfig(
        name=plugin.name,
        typed_config=_running(plugin) if has_code else _standing_in(plugin),
    )
    return make_resource(EXTENSION, plugin.name, serialised(made))


def is_fixed(plugin: Plugin) -> bool:
    """Whether nothing is to come by ECDS."""
    return bool(plugin.refusal) and plugin.former is None


def _discovery(
    plugin: Plugin, types: tuple[Any, ...]
) -> config_source_pb2.ExtensionConfigSource:
    return config_source_pb2.ExtensionConfigSource(
        config_source=ads(patience=_PATIENCE_S),
        default_config=_standing_in(plugin),
        type_urls=[f"type.googleapis.com/{t.DESCRIPTOR.full_name}" for t in types],
    )


def _standing_in(plugin: Plugin) -> any_pb2.Any:
    """What does nothing, or lets nothing through, as the plugin's strategy says."""
    is_open = plugin.spec.fail_strategy is FailStrategy.FAIL_OPEN
    if plugin.is_http:
        if is_open:
            return pack(http_rbac_pb2.RBAC())
        text = _REFUSAL % f"{plugin.source.namespace}/{plugin.source.name}"
        return pack(
            lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=text))
        )
    # An ALLOW without any policy allows nothing.
    rules = None if is_open else rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    return pack(tcp_rbac_pb2.RBAC(stat_prefix="wasm.", rules=rules))


def _running(plugin: Plugin) -> any_pb2.Any:
    spec = plugin.running.spec
    config = wasm_pb2.PluginConfig(
        name=plugin.name,
        root_id=spec.plugin_name or "",
        failure_policy=_POLICIES[plugin.spec.fail_strategy],
        vm_config=_vm(spec.vm_config, plugin.running.module.content),
    )
    if spec.plugin_config is not None:
        text = json.dumps(spec.plugin_config, separators=(",", ":"), sort_keys=True)
        config.configuration.CopyFrom(pack(wrappers_pb2.StringValue(value=text)))
    kind = http_wasm_pb2.Wasm if plugin.is_http else tcp_wasm_pb2.Wasm
    return pack(kind(config=config))


def _vm(given: VmConfig | None, code: bytes) -> wasm_pb2.VmConfig:
    vm = wasm_pb2.VmConfig(runtime=_RUNTIME)
    vm.code.local.inline_bytes = code
    for variable in given.env if given is not None else ():
        if variable.value_from is EnvValueSource.HOST:
            vm.environment_variables.host_env_keys.append(variable.name)
        else:
            vm.environment_variables.key_values[variable.name] = variable.value
    return vm
