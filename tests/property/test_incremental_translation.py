"""What a control plane tells after any sequence of changes is what one tells that started with the
last of them: nothing that is kept outlives what it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import edge, gateway, service, workload

from dockermesh.config.documents import read_text
from dockermesh.model import Catalog, Protocol, Service, Workload
from dockermesh.translate.mesh.settings import IstioConfig, istio_config
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds.snapshot import FIELDS

NAMES = ("web", "api")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
NAMESPACES = ("default", "default", "istio-system", "team")
HOSTS = (
    *NAMES,
    *NAMES,
    "web.service.consul",
    "api.team",
    "*.service.consul",
    "shop.example",
    "other",
)
LABELS = ({}, {"app": "web"}, {"version": "v2"})
MORE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: entrance, namespace: default}
spec: {hosts: ["*"], gateways: [front], http: [{route: [{destination: {host: web}}]}]}
"""


FRONT = edge(MORE)


def _read(document: dict[str, Any]) -> IstioConfig:
    """What is not valid is left out, as the control plane does."""
    return istio_config(read_text(yaml.safe_dump(document)).resources)


def _resource(kind: str, name: str, namespace: str, spec: Any) -> dict[str, Any]:
    group = "security" if kind == "AuthorizationPolicy" else "networking"
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": f"{group}.istio.io/v1",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


RARELY = st.sampled_from((False, False, False, True))
hosts, names = st.sampled_from(HOSTS), st.sampled_from(("one", "two"))
subsets = st.sampled_from(("", "v1", "v2"))


@st.composite
def virtual_services(draw: st.DrawFn) -> dict[str, Any]:
    """Routes: of one host or several, with subsets, conditions on the client, delegates."""
    target = {"host": draw(hosts.filter(lambda h: "*" not in h))}
    if subset := draw(subsets):
        target["subset"] = subset
    route: dict[str, Any] = {"route": [{"destination": target}]}
    if draw(RARELY):
        route["match"] = [{"sourceLabels": draw(st.sampled_from(LABELS[1:]))}]
    spec: dict[str, Any] = {
        "hosts": draw(st.lists(hosts, min_size=1, max_size=2, unique=True)),
        draw(st.sampled_from(("http", "tcp"))): [route],
    }
    if "tcp" in spec:
        route.get("match", [{}])[0].setdefault("port", 9080)
    if draw(RARELY):
        spec["exportTo"] = [draw(st.sampled_from((".", "*")))]
    return _resource(
        "VirtualService", draw(names), draw(st.sampled_from(NAMESPACES)), spec
    )


@st.composite
def destination_rules(draw: st.DrawFn) -> dict[str, Any]:
    """Subsets, limits for clients and servers, rules for some clients alone."""
    pool = {"tcp": {"maxConnections": draw(st.integers(1, 3))}}
    spec: dict[str, Any] = {
        "host": draw(hosts),
        "subsets": [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")],
    }
    policies = (
        {"connectionPool": pool},
        {"tls": {"mode": "DISABLE"}},
        {"loadBalancer": {"simple": "RANDOM"}},
    )
    if draw(st.booleans()):
        spec["trafficPolicy"] = draw(st.sampled_from(policies))
    if draw(RARELY):
        labels = draw(st.sampled_from(LABELS[1:]))
        spec["workloadSelector"] = {"matchLabels": labels}
    if draw(RARELY):
        spec["exportTo"] = ["."]
    return _resource(
        "DestinationRule", draw(names), draw(st.sampled_from(NAMESPACES)), spec
    )


@st.composite
def others(draw: st.DrawFn) -> dict[str, Any]:
    """What decides about more than one host."""
    kind, spec = draw(
        st.sampled_from(
            (
                ("Sidecar", {"egress": [{"hosts": ["./*"]}]}),
                (
                    "Sidecar",
                    {
                        "workloadSelector": {"labels": {"app": "web"}},
                        "egress": [{"hosts": ["*/api.service.consul"]}],
                    },
                ),
                ("AuthorizationPolicy", {"action": "DENY", "rules": [{}]}),
                (
                    "ServiceEntry",
                    {
                        "hosts": ["shop.example"],
                        "location": "MESH_EXTERNAL",
                        "resolution": "STATIC",
                        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                        "endpoints": [{"address": ADDRESSES[2]}],
                    },
                ),
                (
                    "ServiceEntry",
                    {
                        "hosts": ["web.service.consul", "api.team"],
                        "addresses": ["10.9.9.9"],
                        "resolution": "NONE",
                        "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
                    },
                ),
            )
        )
    )
    return _resource(kind, "other", draw(st.sampled_from(NAMESPACES)), spec)


@st.composite
def services(draw: st.DrawFn) -> Service:
    """A service of the registry, with any endpoints, of any kind that matters."""
    name = draw(st.sampled_from(NAMES))
    at = draw(st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True))
    aliases = ("other",) if draw(RARELY) else ()
    protocol = draw(st.sampled_from((Protocol.HTTP, Protocol.TCP, Protocol.AUTO)))
    namespace = "team" if draw(RARELY) else "default"
    made = service(name, *at, protocol=protocol, aliases=aliases)
    return replace(made, namespace=namespace)


RESOURCES = st.one_of(virtual_services(), destination_rules(), others())
CHANGES = st.one_of(
    st.tuples(st.just("service"), services()),
    st.tuples(st.just("service gone"), st.sampled_from(NAMES)),
    st.tuples(st.just("resource"), RESOURCES),
    st.tuples(st.just("resource gone"), st.integers(0, 5)),
    st.tuples(st.just("workload"), st.sampled_from(("web-1", "api-1"))),
)


@dataclass
class World:
    """What there is; a resource keeps its object while it is not replaced, as the reader does."""

    services: dict[str, Service] = field(default_factory=dict)
    resources: dict[tuple[str, str, str], IstioConfig] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)

    def change(self, what: str, how: Any) -> None:
        if what == "service":
            self.services = {**self.services, how.hostname: how}
        elif what == "service gone":
            gone = f"{how}.service.consul"
            self.services = {h: s for h, s in self.services.items() if h != gone}
        elif what == "resource":
            meta = how["metadata"]
            key = (how["kind"], meta["namespace"], meta["name"])
            self.resources = {**self.resources, key: _read(how)}
        elif what == "resource gone":
            kept = sorted(self.resources)[:how] + sorted(self.resources)[how + 1 :]
            self.resources = {key: self.resources[key] for key in kept}
        elif how in self.workloads:
            self.workloads = {n: w for n, w in self.workloads.items() if n != how}
        else:
            at = ADDRESSES[len(self.workloads) % len(ADDRESSES)]
            made = workload(how, 9080, address=at, labels={"version": "v2"})
            self.workloads = {**self.workloads, how: made}

    def state(self, before: MeshState | None) -> MeshState:
        parts = [FRONT, *(self.resources[key] for key in sorted(self.resources))]
        fields: Mapping[str, Any] = {
            name: tuple(r for part in parts for r in getattr(part, name))
            for name in IstioConfig.__dataclass_fields__
        }
        catalog = Catalog(self.services, {w.name: w for w in self.workloads.values()})
        return build_mesh(catalog, config=IstioConfig(**fields), previous=before)


def proxies() -> list[Proxy]:
    made = [gateway({"istio": "ingressgateway"})]
    for name, labels in (("web-1", LABELS[1]), ("api-1", LABELS[2]), ("front-1", {})):
        own = workload(name, 9080, address=ADDRESSES[0], labels=labels)
        made.append(
            Proxy(own.name, address=own.address, labels=own.labels, workload=own)
        )
    made.append(replace(made[-1], id="team/front", namespace="team", workload=None))
    return made


def told(translator: Translator, proxy: Proxy) -> dict[str, Any]:
    """Each resource's version by type and name."""
    snapshot = translator.snapshot(proxy)
    return {
        kind: {r.name: r.version for r in snapshot.of(kind).values()} for kind in FIELDS
    }


@settings(max_examples=150)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=3), min_size=2, max_size=6))
def test_what_is_kept_never_outlives_what_it_was_made_of(
    steps: list[list[tuple[str, Any]]],
) -> None:
    world, followed, mesh = World(), Translator(), MeshState()
    clients = proxies()
    for name in NAMES:
        world.change("service", service(name, ADDRESSES[0]))

    for step in steps:
        for change in step:
            world.change(*change)
        mesh = world.state(mesh)
        followed.update(mesh)

        fresh = Translator()
        fresh.update(world.state(None))
        for proxy in clients:
            assert told(followed, proxy) == told(fresh, proxy), proxy.id
