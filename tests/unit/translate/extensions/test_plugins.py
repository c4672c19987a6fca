"""WasmPlugin: whom it is for, where its filter stands, what stands in for a module that is missing,
and that nobody else is told anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as tcp_rbac_pb2
from google.protobuf import any_pb2, wrappers_pb2
from meshes import (
    GATEWAY_AT_80,
    ONE_OF_EACH,
    catalog,
    edge,
    gateway,
    messages,
    sidecar,
    versions,
)

from dockermesh.translate.envoy.constraints import violation
from dockermesh.translate.mesh.findings import Reason
from dockermesh.translate.mesh.modules import Module
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator

JUDGES = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt}
spec: {jwtRules: [{issuer: me, jwksUri: "https://me/keys"}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hosts}
spec: {action: DENY, rules: [{to: [{operation: {hosts: [no.example]}}]}]}
"""
MODULE = Module(b"\0asm code")
FILTER = "extensions.istio.io/wasmplugin/{}"
SIDECAR = sidecar("reviews-1", 9080)


def plugin(name: str, more: str = "", namespace: str = "default") -> str:
    return (
        "{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: "
        f"{name}, namespace: {namespace}}}, spec: {{url: 'https://me/m.wasm', {more}}}}}"
    )


def mesh(*documents: str, module: Module = MODULE) -> MeshState:
    config = edge("\n---\n".join((GATEWAY_AT_80, *documents)))
    known = {str(p): module for p in config.wasm_plugins}
    return build_mesh(catalog(ONE_OF_EACH), config=config, modules=known)


def translator(*documents: str, module: Module = MODULE) -> Translator:
    made = Translator()
    made.update(mesh(*documents, module=module))
    return made


def filters(made: Translator, proxy: Proxy = SIDECAR) -> dict[str, list[list[str]]]:
    """Names of the filters of requests in each listener, and of connections where there are
    none.
    """
    found: dict[str, list[list[str]]] = {}
    for name, listener in messages(made.snapshot(proxy), "listeners").items():
        assert not violation(listener), name
        for chain in listener.filter_chains:
            names = [part.name for part in chain.filters]
            for part in chain.filters:
                manager = hcm_pb2.HttpConnectionManager()
                if part.typed_config.Unpack(manager):
                    names = [f.name for f in manager.http_filters]
            found.setdefault(name, []).append(names)
    return found


def inbound(made: Translator) -> list[str]:
    return next(
        names
        for names in filters(made)["virtualInbound"]
        if names[-1].endswith("http.router")
    )


def places(names: list[str]) -> list[str]:
    short = {
        "envoy.filters.http.jwt_authn": "jwt",
        "envoy.filters.http.rbac": "rbac",
        "envoy.filters.http.lua": "lua",
        "envoy.filters.http.router": "router",
    }
    return [short.get(n, n.rpartition("/")[2].removeprefix("default.")) for n in names]


def test_phases_stand_around_what_checks_tokens_and_policies() -> None:
    made = translator(
        JUDGES,
        plugin("d"),
        plugin("c", "phase: STATS"),
        plugin("b", "phase: AUTHZ"),
        plugin("a", "phase: AUTHN"),
    )
    assert places(inbound(made)) == [
        *("a", "lua", "jwt", "lua"),
        *("b", "lua", "rbac", "lua"),
        *("c", "d", "router"),
    ]


def test_a_higher_priority_runs_first_then_the_name_decides() -> None:
    made = translator(
        plugin("x", "priority: 5"),
        plugin("b"),
        plugin("a", namespace="istio-system"),
        plugin("z", "priority: 10"),
        plugin("n", "priority: -1"),
    )
    found = [n.rpartition("/")[2] for n in inbound(made)][:-1]
    assert found == [
        "default.z",
        "default.x",
        "default.n",
        "istio-system.a",
        "default.b",
    ]


@pytest.mark.parametrize(
    ("more", "namespace", "is_for_it"),
    [
        ("selector: {matchLabels: {app: reviews}}", "default", True),
        ("selector: {matchLabels: {app: reviews}}", "istio-system", True),
        ("selector: {matchLabels: {app: other}}", "default", False),
        ("", "elsewhere", False),
        (
            "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}]",
            "default",
            False,
        ),
    ],
)
def test_it_is_for_whom_it_selects(more: str, namespace: str, is_for_it: bool) -> None:
    proxy = replace(SIDECAR, labels={"app": "reviews"})
    found = filters(translator(plugin("a", more, namespace)), proxy)
    assert (
        any(
            FILTER.format(f"{namespace}.a") in names
            for names in found["virtualInbound"]
        )
        is is_for_it
    )


@pytest.mark.parametrize(
    ("match", "where"),
    [
        ("[]", {"virtualInbound", "0.0.0.0_80", "0.0.0.0_9080"}),
        ("[{mode: SERVER}]", {"virtualInbound"}),
        ("[{mode: CLIENT}]", {"0.0.0.0_80", "0.0.0.0_9080"}),
        (
            "[{mode: CLIENT_AND_SERVER, ports: [{number: 9080}]}]",
            {"virtualInbound", "0.0.0.0_9080"},
        ),
        (
            "[{ports: [{number: 1}]}, {mode: SERVER, ports: [{number: 9080}]}]",
            {"virtualInbound"},
        ),
        ("[{ports: [{number: 1}]}]", set()),
    ],
)
def test_sides_and_ports_are_those_that_it_names(match: str, where: set[str]) -> None:
    found = filters(translator(plugin("a", f"match: {match}")))
    name = FILTER.format("default.a")
    assert {n for n, chains in found.items() if any(name in c for c in chains)} == where


def test_a_gateway_is_a_client() -> None:
    proxy = gateway({"istio": "ingressgateway"})
    name = FILTER.format("default.a")
    for mode, is_there in (("CLIENT", True), ("SERVER", False)):
        found = filters(translator(plugin("a", f"match: [{{mode: {mode}}}]")), proxy)
        assert any(name in c for chains in found.values() for c in chains) is is_there


def test_connections_have_plugins_of_type_network() -> None:
    made = translator(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec:"
        " {rules: [{}]}}",
        plugin("a", "type: NETWORK, phase: AUTHN"),
        plugin("b", "type: NETWORK"),
    )
    chains = filters(made, sidecar("db-1", 5432))["virtualInbound"]
    names = [places(c) for c in chains if "envoy.filters.network.rbac" in c]
    assert names
    for found in names:
        assert found == [
            "a",
            "envoy.filters.network.rbac",
            "b",
            "envoy.filters.network.tcp_proxy",
        ]


def told(made: Translator, proxy: Proxy = SIDECAR) -> dict[str, Any]:
    """What comes by ECDS, by plugin."""
    found = {}
    for resource in made.snapshot(proxy).extensions.values():
        message = extension_pb2.TypedExtensionConfig()
        assert any_pb2.Any.FromString(resource.any_bytes).Unpack(message)
        assert message.name == resource.name and not violation(message)
        found[message.name] = message.typed_config
    return found


def test_the_module_comes_apart_from_listeners_with_all_its_settings() -> None:
    made = translator(
        plugin(
            "a",
            "pluginName: root, pluginConfig: {b: 1, a: [x]}, failStrategy: FAIL_RELOAD, vmConfig:"
            " {env: [{name: A, value: b}, {name: HOME, valueFrom: HOST}]}",
        )
    )
    (packed,) = told(made).values()
    message = wasm_pb2.Wasm()
    assert packed.Unpack(message)
    config = message.config
    assert (config.root_id, config.failure_policy) == ("root", 1)
    text = wrappers_pb2.StringValue()
    assert config.configuration.Unpack(text)
    assert text.value == '{"a":["x"],"b":1}'
    vm = config.vm_config
    assert vm.code.local.inline_bytes == MODULE.content
    assert dict(vm.environment_variables.key_values) == {"A": "b"}
    assert list(vm.environment_variables.host_env_keys) == ["HOME"]
    listeners = made.snapshot(SIDECAR).listeners.values()
    assert not [r.name for r in listeners if MODULE.content in r.any_bytes]


@pytest.mark.parametrize(
    ("more", "message", "text"),
    [
        ("", lua_pb2.Lua, b"503"),
        ("failStrategy: FAIL_RELOAD", lua_pb2.Lua, b"503"),
        ("failStrategy: FAIL_OPEN", http_rbac_pb2.RBAC, b""),
        ("type: NETWORK", tcp_rbac_pb2.RBAC, b"wasm."),
    ],
)
def test_what_stands_in_for_a_missing_module_is_what_fail_strategy_says(
    more: str, message: Any, text: bytes
) -> None:
    made = translator(plugin("a", more), module=Module(problem="it burns"))
    (packed,) = told(made).values()
    assert packed.Is(message.DESCRIPTOR) and text in packed.value
    (finding,) = made.findings("WasmPlugin default/a")
    assert finding.reason is Reason.REFERENCE_NOT_FOUND
    assert finding.message.startswith("spec.url: it burns; ")


def test_one_whose_module_nobody_tried_to_get_yet_is_not_in_force() -> None:
    plain, made = translator(), Translator()
    made.update(replace(mesh(plugin("a")), modules={}))
    assert versions(made.snapshot(SIDECAR)) == versions(plain.snapshot(SIDECAR))
    (finding,) = made.findings("WasmPlugin default/a")
    assert "is being fetched" in finding.message


def test_who_has_no_plugin_has_the_bytes_of_before_and_a_change_makes_one_resource() -> (
    None
):
    labelled = replace(SIDECAR, labels={"app": "reviews"})
    text = "selector: {matchLabels: {app: reviews}}, pluginConfig: {n: %d}"
    plain, made = translator(), translator(plugin("a", text % 1))
    before = made.snapshot(labelled)
    assert versions(made.snapshot(SIDECAR)) == versions(plain.snapshot(SIDECAR))
    assert not len(made.snapshot(SIDECAR).extensions)

    state = mesh(plugin("a", text % 2))
    made.update(state)
    after = made.snapshot(labelled)
    assert versions(after) == versions(before)
    assert after.extensions.version != before.extensions.version
    # What did not change is the same object: it holds the module.
    made.update(replace(state, config=replace(state.config)))
    name = FILTER.format("default.a")
    assert made.snapshot(labelled).extensions.get(name) is after.extensions.get(name)


def test_what_a_proxy_refuses_is_left_out_and_the_one_of_before_runs_on() -> None:
    made = translator(plugin("a", "pluginConfig: {n: 1}"), plugin("ab"))
    name = FILTER.format("default.a")
    before = made.snapshot(SIDECAR)
    state = mesh(plugin("a", "pluginConfig: {n: 2}"), plugin("ab"))
    made.update(state)
    refused = made.snapshot(SIDECAR)
    assert refused.listeners.version == before.listeners.version

    assert not made.distrust(SIDECAR, "type", "no name")
    assert made.distrust(SIDECAR, "type", f"Unable to create Wasm plugin {name}\n")
    after = made.snapshot(SIDECAR)
    assert after.listeners.version != before.listeners.version
    assert set(after.extensions) == {f"{name}~former", f"{name}b"}
    message = wasm_pb2.Wasm()
    assert told(made)[f"{name}~former"].Unpack(message)
    assert b'{"n":1}' in message.config.configuration.value
    (finding,) = made.findings("WasmPlugin default/a")
    assert "a proxy refused it" in finding.message

    # That one is refused as well: nothing comes for it any more, and 503 is answered.
    assert made.distrust(SIDECAR, "type", f"{name}~former: no")
    assert set(made.snapshot(SIDECAR).extensions) == {f"{name}b"}
    assert FILTER.format("default.a") in inbound(made)
    assert not made.distrust(SIDECAR, "type", name)

    made.update(mesh(plugin("a", "pluginConfig: {n: 3}"), plugin("ab")))
    assert set(made.snapshot(SIDECAR).extensions) == {name, f"{name}b"}
    assert not made.findings("WasmPlugin default/a")


def test_what_is_read_and_has_no_effect_says_so() -> None:
    made = translator(plugin("a", "verificationKey: k, imagePullSecret: s"))
    found = {f.message for f in made.findings("WasmPlugin default/a")}
    assert found == {
        "spec.verificationKey: has no effect",
        "spec.imagePullSecret: has no effect: no image is pulled",
    }
