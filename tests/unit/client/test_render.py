"""`dockermesh render`: from files to a proxy's resources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dockermesh.cli.render import command
from dockermesh.errors import InputError, UsageError

CATALOG = """
services:
- name: reviews
  ports: [{port: 9080, protocol: http}]
  endpoints:
  - {address: 10.0.0.1, port: 9080, workload: shop/reviews-1, labels: {version: v1}}
  - {address: 10.0.0.2, port: 9080, healthy: false}
"""
CONFIG = """
kind: MeshConfig
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: broken}
spec: {hosts: [reviews], nonsense: true}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "proxy.json").write_text(
        '{"id": "x", "type": "sidecar", "labels": {}, "ip": "10.0.0.1"}'
    )
    return tmp_path


def run(files: Path, *options: str) -> Any:
    given = [
        "--config",
        str(files / "config.yaml"),
        "--catalog",
        str(files / "catalog.yaml"),
        *options,
    ]
    return CliRunner().invoke(command, given, catch_exceptions=False)


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_a_workload_is_told_the_mesh_and_its_own_port(files: Path, output: str) -> None:
    result = run(files, "--workload", "shop/reviews-1", "-o", output)
    made = (
        json.loads(result.stdout) if output == "json" else yaml.safe_load(result.stdout)
    )
    assert list(made) == ["listeners", "routes", "clusters", "endpoints"]
    names = {cluster["name"] for cluster in made["clusters"]}
    assert {
        "outbound|9080|v1|reviews.service.consul",
        "inbound|9080||",
        "BlackHoleCluster",
    } <= names
    assert "nonsense" in result.stderr


@pytest.mark.parametrize("domain", ["acme", "acme."])
def test_services_are_called_by_the_domain_of_the_users_consul(
    files: Path, monkeypatch: pytest.MonkeyPatch, domain: str
) -> None:
    monkeypatch.setenv("DOCKERMESH_CONSUL_DOMAIN", domain)
    text = run(files, "--workload", "shop/reviews-1").stdout
    names = {cluster["name"] for cluster in json.loads(text)["clusters"]}
    assert "outbound|9080|v1|reviews.service.acme" in names
    assert "service.consul" not in text


def test_a_proxy_is_known_by_its_address(files: Path) -> None:
    made = json.loads(run(files, "--proxy", str(files / "proxy.json")).stdout)
    assert "inbound|9080||" in {cluster["name"] for cluster in made["clusters"]}


def test_what_every_proxy_opens_before_it_is_told_anything_is_shown(
    files: Path,
) -> None:
    (files / "proxy.json").write_text(
        '{"id": "x", "type": "router", "labels": {"istio": "none"}, "ip": "10.0.0.1"}'
    )
    made = json.loads(run(files, "--proxy", str(files / "proxy.json")).stdout)
    assert {listener["name"] for listener in made["listeners"]} == {
        "admin",
        "metrics",
        "prometheus",
        "readiness",
    }
    [admin] = [
        cluster for cluster in made["clusters"] if cluster["name"] == "proxy-admin"
    ]
    assert "loadAssignment" in admin  # in JSON's own names, as all the rest


def test_a_static_bootstrap_refers_to_nothing_outside(files: Path) -> None:
    text = run(files, "--workload", "shop/reviews-1", "--static").stdout
    assert "staticResources" in json.loads(text)
    assert '"rds"' not in text
    assert '"ads"' not in text
    # A certificate of the mesh comes from a control plane, and Envoy does not start where a secret
    # is missing.
    assert '"ROOTCA"' not in text
    assert "tlsCertificateSdsSecretConfigs" not in text
    inbound = next(
        x
        for x in json.loads(text)["staticResources"]["listeners"]
        if x["name"] == "virtualInbound"
    )
    assert "0.0.0.0_9080" in {chain["name"] for chain in inbound["filterChains"]}


def test_the_proxy_must_be_named_once(files: Path) -> None:
    with pytest.raises(UsageError):
        run(files)


@pytest.mark.parametrize(
    "text",
    [
        "services: 7",
        "services: [{ports: []}]",
        "services: [{name: a, ports: [{port: x}]}]",
    ],
)
def test_a_catalog_of_another_form_is_refused(files: Path, text: str) -> None:
    (files / "catalog.yaml").write_text(text)
    with pytest.raises(InputError):
        run(files, "--proxy", str(files / "proxy.json"))


def test_a_proxy_without_any_known_port_shows_how_requests_and_connections_are_judged(
    files: Path,
) -> None:
    (files / "config.yaml").write_text(
        """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ["80"]}}]}]}
"""
    )
    (files / "proxy.json").write_text('{"namespace": "shop", "ip": "10.9.9.9"}')
    made = json.loads(run(files, "--proxy", str(files / "proxy.json")).stdout)
    inbound = next(
        listener
        for listener in made["listeners"]
        if listener["name"] == "virtualInbound"
    )
    assert [f["name"] for f in inbound["listenerFilters"]] == [
        "envoy.filters.listener.original_dst",
        "envoy.filters.listener.http_inspector",
    ]
    http, tcp = (chain["filters"] for chain in inbound["filterChains"][1:])
    request_rules = next(
        f
        for f in http[0]["typedConfig"]["httpFilters"]
        if f["name"] == "envoy.filters.http.rbac"
    )
    assert len(request_rules["typedConfig"]["rules"]["policies"]) == 2
    assert [f["name"] for f in tcp] == [
        "envoy.filters.network.rbac",
        "envoy.filters.network.tcp_proxy",
    ]
    assert len(tcp[0]["typedConfig"]["rules"]["policies"]) == 1
