"""What a change of the state makes stale is said for every part of it."""

from __future__ import annotations

from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import pytest
from meshes import catalog, edge, gateway, mesh, service, sidecar, versions

from dockermesh.model import Health, Port, Protocol, Resolution, Service
from dockermesh.translate.mesh.changes import MAKES_STALE, Stale, stale_after
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState, build_mesh
from dockermesh.translate.sidecar.outbound import SidecarView
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


OTHER_ENTRY = {
    "location": ("MESH_EXTERNAL", "MESH_INTERNAL"),
    "export_to": ("resolution: STATIC", "resolution: STATIC\n  exportTo: [shop]"),
    "subject_alt_names": (
        "resolution: STATIC",
        "resolution: STATIC\n  subjectAltNames: [spiffe://a/ns/b/sa/c]",
    ),
    "resolution": ("resolution: STATIC", "resolution: DNS"),
    "address": ("10.9.9.9", "10.9.9.8"),
    "port": ("number: 9080", "number: 9081"),
    "protocol": ("protocol: HTTP", "protocol: TCP"),
}


@pytest.mark.parametrize("part", OTHER_ENTRY)
@pytest.mark.parametrize("is_back", [False, True])
def test_a_service_entry_that_changes_is_told_as_if_it_had_always_been_so(
    part: str, is_back: bool
) -> None:
    old, new = OTHER_ENTRY[part]
    texts = [ENTRY.replace("LOCATION", "MESH_EXTERNAL")]
    if part == "subject_alt_names":
        texts = [ENTRY.replace("LOCATION", "MESH_INTERNAL")]
    texts.append(texts[0].replace(old, new))
    first, second = reversed(texts) if is_back else texts

    before = mesh(config=first)
    moved, fresh = Translator(), Translator()
    moved.update(before)
    told_first = versions(moved.snapshot(sidecar()))
    config = edge(second)
    moved.update(build_mesh(catalog([]), config=config, previous=before))
    fresh.update(build_mesh(catalog([]), config=config))

    found = versions(moved.snapshot(sidecar()))
    assert found == versions(fresh.snapshot(sidecar()))
    assert found != told_first, "this case would prove nothing"


POLICIES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: subsets}
spec:
  host: reviews.service.consul
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3}
    loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: by-alias}
spec:
  hosts: [alias.example]
  http: [{timeout: 7s, route: [{destination: {host: alias.example, subset: v1}}]}]
"""
PLAIN = replace(service("reviews", "10.0.0.1", "10.0.0.2"), namespace="default")
OTHER_SERVICE: dict[str, dict[str, Any]] = {
    "name": {"name": "critics"},
    "hostname": {"hostname": "critics.service.consul"},
    "ports": {"ports": (Port(9081, Protocol.TCP, "tcp"),)},
    "endpoints": {"endpoints": service("reviews", "10.0.0.7").endpoints},
    "namespace": {"namespace": "shop"},
    "aliases": {"aliases": ("alias.example",)},
    "resolution": {"resolution": Resolution.DNS},
    "addresses": {"addresses": ("10.8.8.8",)},
    "is_declared": {"is_declared": True},
}
OF_SERVICE_ENTRIES = {"is_external", "export_to", "subject_alt_names"}
"""No registry has them; `OTHER_ENTRY` changes them."""
NOT_OF_A_SOURCE = {"accounts", "is_meshed", "project", "shared"}
"""Translation finds them out of workloads."""
WITHOUT_EFFECT = {"labels"}
OTHER_ENDPOINT: dict[str, Any] = {
    "address": "10.0.0.77",
    "port": 1234,
    "service_port": 9081,
    "labels": MappingProxyType({"version": "v2"}),
    "health": Health.DRAINING,
    "locality": "eu/west/1",
    "weight": 5,
}


def told(
    services: list[Service], before: list[Service] | None = None, text: str = POLICIES
) -> Any:
    """What a proxy is told; by a translator that saw another state before, if there was one."""
    translator, previous = Translator(), None
    config = edge(text)
    if before is not None:
        previous = build_mesh(catalog(before), config=config)
        translator.update(previous)
        translator.snapshot(sidecar())
    kwargs = {"previous": previous} if previous is not None else {}
    translator.update(build_mesh(catalog(services), config=config, **kwargs))
    return versions(translator.snapshot(sidecar()))


def test_every_field_of_a_service_is_considered() -> None:
    names = {field.name for field in fields(Service)}
    assert (
        names
        == OTHER_SERVICE.keys() | OF_SERVICE_ENTRIES | NOT_OF_A_SOURCE | WITHOUT_EFFECT
    )


@pytest.mark.parametrize("field", OTHER_SERVICE)
def test_a_service_that_changes_in_one_field_is_told_as_if_it_had_always_been_so(
    field: str,
) -> None:
    rest = [service("ratings", "10.0.0.3"), service("details", "10.0.0.4")]
    first, second = [PLAIN, *rest], [replace(PLAIN, **OTHER_SERVICE[field]), *rest]
    assert told(second, before=first) == told(second)
    assert told(first, before=second) == told(first)
    assert told(first) != told(second), "this case would prove nothing"


@pytest.mark.parametrize("field", OTHER_ENDPOINT)
def test_so_it_is_for_an_endpoint(field: str) -> None:
    one, *others = PLAIN.endpoints
    changed = replace(one, **{field: OTHER_ENDPOINT[field]})
    first, second = [PLAIN], [replace(PLAIN, endpoints=(changed, *others))]
    if field == "service_port":
        ports = (Port(9080, Protocol.HTTP), Port(9081, Protocol.HTTP))
        first, second = ([replace(s[0], ports=ports)] for s in (first, second))
    assert told(second, before=first) == told(second)
    assert told(first) != told(second), "this case would prove nothing"


def test_new_names_reach_the_rules_that_mean_them() -> None:
    """The row `names` of the table: a rule for a host that becomes a name of a service."""
    first, second = [PLAIN], [replace(PLAIN, aliases=("alias.example",))]
    assert told(second, before=first) == told(second)
    assert Stale.INDEX in MAKES_STALE["names"]


LED_TO = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: entrance}
spec: {hosts: [web], http: [{route: [{destination: {host: data}}]}]}
"""


def test_a_name_that_goes_to_an_equal_service_takes_the_routes_to_it_along() -> None:
    """All but the name of the service that a rule leads to is the same then."""
    web, one, two = (service(name, "10.0.0.1") for name in ("web", "one", "two"))
    first = [web, replace(one, aliases=("data",)), two]
    second = [web, one, replace(two, aliases=("data",))]
    assert told(second, before=first, text=LED_TO) == told(second, text=LED_TO)
    assert told(first, text=LED_TO) != told(second, text=LED_TO)


UNSEEN = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s}
spec: {egress: [{hosts: ["team/*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routed, namespace: team}
spec: {hosts: [web.service.consul], http: [{route: [{destination: {host: shop.example}}]}]}
"""
LEADS_TO_IT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leading, namespace: team}
spec: {hosts: [api.service.consul], http: [{route: [{destination: {host: web.service.consul}}]}]}
"""


def test_a_host_that_a_sidecar_hid_is_there_when_a_rule_leads_to_it() -> None:
    """Before, a rule routed it without seeing a service; it did not change itself."""
    listed = catalog([service("web", "10.0.0.1"), service("api", "10.0.0.2")])
    before = build_mesh(listed, config=edge(UNSEEN))
    # As the reader does: what did not change is the same object.
    rules = (*before.config.virtual_services, *edge(LEADS_TO_IT).virtual_services)
    config = replace(before.config, virtual_services=rules)

    moved, fresh = Translator(), Translator()
    moved.update(before)
    first = versions(moved.snapshot(sidecar()))
    moved.update(build_mesh(listed, config=config, previous=before))
    fresh.update(build_mesh(listed, config=config))
    assert versions(moved.snapshot(sidecar())) == versions(fresh.snapshot(sidecar()))
    assert versions(moved.snapshot(sidecar())) != first


def test_what_an_update_that_broke_off_left_out_is_told_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> bool:
        raise RuntimeError("a fault of ours")

    one, two = (service(name, "10.0.0.1") for name in ("one", "two"))
    other = replace(one, ports=(Port(9081, Protocol.HTTP),))
    first = build_mesh(catalog([one, two]))
    second = build_mesh(catalog([other, two]), previous=first)
    last = [other, replace(two, endpoints=())]
    moved, fresh = Translator(), Translator()
    moved.update(first)
    moved.snapshot(sidecar())
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(SidecarView, "update", fail)
        moved.update(second)

    moved.update(build_mesh(catalog(last), previous=second))
    fresh.update(build_mesh(catalog(last)))
    assert versions(moved.snapshot(sidecar())) == versions(fresh.snapshot(sidecar()))
