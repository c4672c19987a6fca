"""What the hosts of a Sidecar let its proxies see."""

from __future__ import annotations

import pytest
from meshes import as_dict, edge, mesh, service, sidecar

from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.translator import Translator

SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: shop}}
spec: {{egress: {egress}}}
"""


def scope(egress: str) -> Scope:
    (resource,) = edge(SIDECAR.format(egress=egress)).sidecars
    return Scope(namespace="shop", sidecar=resource)


@pytest.mark.parametrize(
    ("hosts", "namespace", "host", "is_seen"),
    [
        ('["*/*", "~prod/*"]', "prod", "a.example", False),
        ('["*/*", "~prod/*"]', "test", "a.example", True),
        ('["*/*", "~prod/a.example"]', "prod", "a.example", False),
        ('["*/*", "~prod/a.example"]', "prod", "b.example", True),
        ('["*/*", "~/a.example"]', "prod", "a.example", False),
        ('["*/*", "~/a.example"]', "prod", "b.example", True),
        ('["*/*", "~*/*.example"]', "prod", "a.example", False),
        ('["*/*", "~/a.example"]', "prod", "*.example", True),
        ('["*/*", "~./*"]', "shop", "a.example", False),
        ('["*/*", "~./*"]', "prod", "a.example", True),
        ('["~prod/*"]', "test", "a.example", False),
        ('["~/*"]', "shop", "a.example", False),
        ('["prod/*", "~prod/A.example"]', "prod", "a.example", False),
    ],
)
def test_what_a_sidecar_excludes_is_taken_out_of_what_it_lists(
    hosts: str, namespace: str, host: str, is_seen: bool
) -> None:
    assert scope(f"[{{hosts: {hosts}}}]").imports(namespace, [host]) is is_seen


def test_a_listener_excludes_for_itself_alone() -> None:
    both = scope(
        '[{port: {number: 80, protocol: HTTP, name: http}, hosts: ["*/*", "~/a.example"]},'
        ' {hosts: ["*/*"]}]'
    )
    assert both.imports("prod", ["a.example"])
    assert not both.imports("prod", ["a.example"], 80)
    assert both.imports("prod", ["a.example"], 81)
    assert not both.excludes("prod", ["a.example"])
    assert scope('[{hosts: ["*/*", "~/a.example"]}]').excludes("prod", ["a.example"])
    assert not Scope().excludes("prod", ["a.example"])


RULE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: both}
spec:
  hosts: [a.example, b.example]
  http: [{route: [{destination: {host: reviews}}]}]
"""


def test_no_rule_brings_back_what_a_sidecar_excludes() -> None:
    """The other hosts of the same rule stay."""
    config = SIDECAR.format(egress='[{hosts: ["*/*", "~/a.example"]}]')
    translator = Translator()
    translator.update(
        mesh(
            service("reviews", "10.0.0.1"),
            config=config.replace("namespace: shop", "namespace: default") + RULE,
        )
    )
    routes = str(as_dict(translator.snapshot(sidecar("web-1", 9080)))["routes"])
    assert "b.example" in routes
    assert "a.example" not in routes


def test_an_excluded_service_has_no_cluster() -> None:
    config = SIDECAR.format(egress='[{hosts: ["*/*", "~/ratings.service.consul"]}]')
    translator = Translator()
    translator.update(
        mesh(
            service("reviews", "10.0.0.1"),
            service("ratings", "10.0.0.2"),
            config=config.replace("namespace: shop", "namespace: default"),
        )
    )
    told = as_dict(translator.snapshot(sidecar("web-1", 9080)))
    names = " ".join(cluster["name"] for cluster in told["clusters"])
    assert "reviews.service.consul" in names
    assert "ratings" not in names
    assert "ratings" not in str(told["routes"])
