"""What a change of the state makes stale is said for every part of it."""

from __future__ import annotations

from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import pytest
from meshes import catalog, edge, gateway, mesh, service, sidecar, versions

from dockermesh.translate.mesh.changes import MAKES_STALE, Stale, stale_after
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState, build_mesh
from dockermesh.translate.translator import Translator

RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: r}
spec: {hosts: [reviews], http: [{timeout: 1s, route: [{destination: {host: reviews}}]}]}
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""
BASE = [service("reviews", "10.0.0.1"), service("ratings", "10.0.0.2")]
STATES: dict[str, dict[str, Any]] = {
    "another endpoint": {"services": [service("reviews", "10.0.0.9"), BASE[1]]},
    "another name": {"services": [*BASE, service("details", "10.0.0.3")]},
    "fewer services": {"services": BASE[:1]},
    "another rule": {"config": edge(RULE)},
    "a gateway": {"config": edge(GATEWAY)},
    "other settings": {
        "settings": MeshSettings(allow_any=False, detection_timeout=1.0)
    },
}


def test_every_part_of_the_state_is_listed() -> None:
    assert MAKES_STALE.keys() == {field.name for field in fields(MeshState)}


def test_the_same_parts_make_nothing_stale() -> None:
    state = mesh(*BASE)
    assert stale_after(state, replace(state)) == frozenset()
    assert Stale.INDEX in stale_after(
        state, replace(state, jwks=MappingProxyType({"a": "b"}))
    )


@pytest.mark.parametrize("case", STATES)
def test_a_translator_that_saw_a_change_tells_what_a_new_one_tells(case: str) -> None:
    before = mesh(*BASE)
    moved, proxies = (
        Translator(),
        (sidecar("reviews-1", 9080), gateway({"istio": "ingressgateway"})),
    )
    moved.update(before)
    old = [versions(moved.snapshot(proxy)) for proxy in proxies]
    given = {"services": BASE, "config": None, "settings": None} | STATES[case]
    services = catalog(given.pop("services"))
    moved.update(build_mesh(services, **given, previous=before))
    fresh = Translator()
    fresh.update(build_mesh(services, **given))
    found = [versions(moved.snapshot(proxy)) for proxy in proxies]
    assert found == [versions(fresh.snapshot(proxy)) for proxy in proxies]
    assert found != old


ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e}
spec:
  hosts: [ext.example]
  location: LOCATION
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.9.9.9, labels: {security.istio.io/tlsMode: istio}, serviceAccount: x}]
"""


@pytest.mark.parametrize("first", ["MESH_INTERNAL", "MESH_EXTERNAL"])
def test_a_service_entry_that_moves_in_or_out_of_the_mesh_changes_its_cluster(
    first: str,
) -> None:
    second = {"MESH_INTERNAL": "MESH_EXTERNAL", "MESH_EXTERNAL": "MESH_INTERNAL"}[first]
    before = mesh(config=ENTRY.replace("LOCATION", first))
    moved, fresh = Translator(), Translator()
    moved.update(before)
    old = versions(moved.snapshot(sidecar()))
    config = edge(ENTRY.replace("LOCATION", second))
    moved.update(build_mesh(catalog([]), config=config, previous=before))
    fresh.update(build_mesh(catalog([]), config=config))

    found = versions(moved.snapshot(sidecar()))
    assert found == versions(fresh.snapshot(sidecar()))
    assert found != old
