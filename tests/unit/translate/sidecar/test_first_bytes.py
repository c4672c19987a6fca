"""How long a client's first bytes are waited for on ports whose protocol nobody knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from meshes import as_dict, mesh, service, sidecar

from dockermesh.model import Protocol
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.translator import Translator

UNKNOWN = service("odd", "10.0.0.1", port=7000, protocol=Protocol.AUTO)


def resource(kind: str, group: str, spec: str, namespace: str = "default") -> str:
    return (
        f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x, namespace: {namespace}}}\n"
        f"spec: {spec}\n---\n"
    )


def policy(namespace: str, kind: str = "AuthorizationPolicy") -> str:
    return resource(kind, "security.istio.io/v1", "{}", namespace)


def routed(how: str) -> str:
    route = f"{how}: [{{route: [{{destination: {{host: odd}}}}]}}]"
    spec = f"{{hosts: [odd], {route}}}"
    return resource("VirtualService", "networking.istio.io/v1", spec)


def wait(translator: Translator, state: MeshState) -> str:
    translator.update(state)
    listeners = as_dict(translator.snapshot(sidecar()))["listeners"]
    own = f"{state.vips['odd.service.consul']}_7000"
    [found] = [item for item in listeners if item["name"] == own]
    return str(found["listenerFiltersTimeout"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", "0.100s"),
        (policy("other"), "0.100s"),
        # Who may be denied for what a request says is not taken for bytes.
        (policy("default"), "5s"),
        (policy("istio-system"), "5s"),
        (policy("default", "RequestAuthentication"), "5s"),
        # Nor is who has a way to go that requests alone tell.
        (routed("http"), "5s"),
    ],
)
def test_silence_means_bytes_soon_where_nobody_looks_at_requests(
    config: str, expected: str
) -> None:
    assert wait(Translator(), mesh(UNKNOWN, config=config)) == expected


def test_a_shorter_time_of_the_mesh_s_holds() -> None:
    for given, expected in ((0.05, "0.050s"), (0.0, "0s")):
        settings = MeshSettings(detection_timeout=given)
        assert wait(Translator(), mesh(UNKNOWN, settings=settings)) == expected


def test_the_first_policy_of_a_namespace_changes_it() -> None:
    translator = Translator()
    assert wait(translator, mesh(UNKNOWN)) == "0.100s"
    assert wait(translator, mesh(UNKNOWN, config=policy("default"))) == "5s"
    moved = replace(UNKNOWN, namespace="other")
    assert wait(translator, mesh(moved, config=policy("default"))) == "0.100s"


def test_a_port_that_several_kinds_share_is_waited_for_as_before() -> None:
    entry = resource(
        "ServiceEntry",
        "networking.istio.io/v1",
        "{hosts: [raw.com], ports: [{number: 9080, name: p, protocol: TCP}]}",
    )
    translator = Translator()
    translator.update(mesh(service("web", "10.0.0.2"), config=entry))
    listeners = as_dict(translator.snapshot(sidecar()))["listeners"]
    [shared] = [item for item in listeners if item["name"] == "0.0.0.0_9080"]
    assert shared["listenerFiltersTimeout"] == "5s"
