"""Whole meshes in, Envoy's resources out: as reviewed, and as a real Envoy takes them.

`tests/golden/translate/<case>.in.yaml` lists services (and Istio resources under `config`),
`<case>.<proxy>.out.yaml` is what that proxy gets. With `meshed: true`, the workloads that endpoints
name are attested.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy_binary import envoy_binary
from meshes import as_dict, catalog, edge, gateway, sidecar
from patience import SLACK

from dockermesh.ca import Authority, new_material
from dockermesh.model import (
    Endpoint,
    Health,
    Identity,
    Port,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.model.protocol import Protocol
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot

CASES = Path(__file__).parents[2] / "golden" / "translate"
NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))
PROXIES: dict[str, Proxy] = {
    "sidecar": sidecar("reviews-1", 9080),
    "gateway": gateway({"istio": "ingressgateway"}),
}


def service_of(text: dict[str, Any]) -> Service:
    ports = tuple(
        Port(p["number"], Protocol(p.get("protocol", "auto"))) for p in text["ports"]
    )
    endpoints = tuple(
        Endpoint(**e | {"health": Health(e.get("health", "healthy"))})
        for e in text["endpoints"]
    )
    return Service(
        text["name"],
        f"{text['name']}.service.consul",
        ports,
        endpoints,
        aliases=tuple(text.get("aliases", ())),
    )


def meshed(service: Service, endpoint: Endpoint) -> Workload:
    """The record of an endpoint's workload."""
    return Workload(
        id=endpoint.workload,
        name=endpoint.workload,
        service=service.name,
        service_account=endpoint.service_account,
        address=endpoint.address,
        ports=(
            ServedPort(service.name, endpoint.port, service.ports[0].protocol.value),
        ),
        labels={"app": service.name},
    )


def snapshot_of(case: str, proxy: str) -> Snapshot:
    read = yaml.safe_load((CASES / f"{case}.in.yaml").read_text())
    config = edge(yaml.safe_dump_all(read["config"])) if read.get("config") else None
    services = [service_of(s) for s in read["services"]]
    workloads = (
        [meshed(s, e) for s in services for e in s.endpoints if e.workload]
        if read.get("meshed")
        else []
    )
    translator = Translator()
    # Metrics are in each listener the same; they have golden files of their own.
    settings = MeshSettings(metric_providers=())
    known = catalog(services, workloads)
    translator.update(build_mesh(known, config=config, settings=settings))
    return translator.snapshot(PROXIES[proxy])


def translated(case: str, proxy: str) -> dict[str, list[dict[str, Any]]]:
    return as_dict(snapshot_of(case, proxy))


@cache
def issued() -> list[dict[str, Any]]:
    """What the control plane gives every proxy: a certificate of its own, and the mesh's roots."""
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    leaf = authority.issue_workload(Identity("cluster.local", "default", "reviews"))
    pair = {
        "certificateChain": {"inlineString": leaf.certificate.decode()},
        "privateKey": {"inlineString": leaf.key.decode()},
    }
    roots = {"trustedCa": {"inlineString": authority.roots_pem.decode()}}
    return [
        {"name": "default", "tlsCertificate": pair},
        {"name": "ROOTCA", "validationContext": roots},
    ]


def static(resources: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The resources as one bootstrap without a control plane: routes and endpoints put where they
    are referred to.
    """
    routes = {route["name"]: route for route in resources["routes"]}
    endpoints = {
        assignment["clusterName"]: assignment for assignment in resources["endpoints"]
    }

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "rds" in node:
            node = {k: v for k, v in node.items() if k != "rds"} | {
                "routeConfig": routes[node["rds"]["routeConfigName"]]
            }
        if node.get("name") in {"default", "ROOTCA"} and "sdsConfig" in node:
            return {"name": node["name"]}
        return {key: inlined(value) for key, value in node.items()}

    clusters = []
    for cluster in resources["clusters"]:
        own = inlined({k: v for k, v in cluster.items() if k != "edsClusterConfig"})
        if cluster.get("type") == "EDS":
            assignment = endpoints[
                cluster["edsClusterConfig"].get("serviceName", cluster["name"])
            ]
            own |= {"type": "STATIC", "loadAssignment": assignment}
        clusters.append(own)
    return {
        "node": {"id": "golden", "cluster": "golden"},
        "staticResources": {
            "listeners": inlined(resources["listeners"]),
            "clusters": clusters,
            "secrets": issued(),
        },
    }


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("case", NAMES)
def test_resources(case: str, proxy: str, golden: Callable[[Path, str], None]) -> None:
    golden(
        CASES / f"{case}.{proxy}.out.yaml",
        yaml.safe_dump(translated(case, proxy), sort_keys=True, width=120),
    )


@pytest.mark.binary
@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("case", NAMES)
def test_envoy_takes_them(case: str, proxy: str, tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(static(translated(case, proxy))))
    done = subprocess.run(
        [
            envoy_binary(),
            "--mode",
            "validate",
            "-c",
            str(file),
            "-l",
            "error",
            "--disable-hot-restart",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * SLACK,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_cases() -> None:
    assert NAMES
