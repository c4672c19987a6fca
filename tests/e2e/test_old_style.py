"""A Compose file as people wrote them for Consul on Docker ten years ago works as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mesh_rig import Mesh, answers, consul, docker, inspect
from patience import until

pytestmark = pytest.mark.docker

# Version 2, `expose`, Consul's DNS by address and search domain, fixed addresses on an external
# network.
OLD = """
version: '2'
services:
  catalog:
    image: bookinfo-details-v1
    expose: ["9080"]
    environment: {{SERVICE_9080_NAME: old-catalog, SERVICE_TAGS: "version|v1", SERVICE_PROTOCOL: http}}
    dns: [172.28.0.1, 8.8.8.8]
    dns_search: [service.consul]
    networks:
      outer: {{ipv4_address: {subnet}.9.10, aliases: [books]}}
  front:
    image: bookinfo-details-v1
    expose: ["9080"]
    ports: ["9084:9080"]
    environment: {{SERVICE_9080_NAME: old-front, SERVICE_PROTOCOL: http}}
    dns: [172.28.0.1, 8.8.8.8]
    dns_search: [service.consul]
    networks:
      outer: {{ipv4_address: {subnet}.9.11}}
networks:
  outer:
    external: true
    name: {network}
"""
PORT = 30084
CALL = (
    "import urllib.request as u; print(u.urlopen('http://{}/details/0',"
    " timeout=60).read().decode())"
)


def test_an_old_file_on_the_external_mesh_network(mesh: Mesh, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(OLD.format(subnet="172.28", network="dockermesh"))
    before = file.read_text()
    try:
        mesh.up(
            file,
            "-p",
            "oldstyle",
            "--network",
            "dockermesh",
            "--gateway-port",
            f"9084:{PORT}",
        )
        assert file.read_text() == before
        found = {
            w["name"]: w["address"]
            for w in until(lambda: mesh.workloads("oldstyle"), "they are listed")
        }
        assert found["oldstyle/catalog-1"] == "172.28.9.10"
        assert found["oldstyle/front-1"] == "172.28.9.11"
        entry = consul("/v1/health/service/old-catalog?passing")[0]["Service"]
        assert (entry["Address"], entry["Port"]) == ("172.28.9.10", 9080)
        until(
            lambda: answers(f"http://127.0.0.1:{PORT}/details/0"),
            "the app answers at the gateway",
        )
        # The search domain makes the bare name a name of Consul's; the proxy answers all of its
        # forms.
        for host in (
            "old-catalog:9080",
            "old-catalog.service.consul:9080",
            "catalog:9080",
            "books:9080",
        ):
            told = docker(
                "exec", "oldstyle-front-1", "python3", "-c", CALL.format(host)
            )
            assert json.loads(told)["id"] == 0, host
        routed = mesh.command(
            "explain", "oldstyle/front-1", "http://books:9080/"
        ).stdout
        assert "outbound|9080||catalog.service.consul" in routed, (
            "an alias is not merely passed through"
        )
        # A name that the mesh does not know still goes the way that the file says: to Consul's DNS.
        consul(
            "/v1/agent/service/register",
            "PUT",
            {"ID": "foreign", "Name": "foreign", "Address": "10.1.2.3", "Port": 1},
        )
        pod = inspect("oldstyle-front-1-pod-1")["HostConfig"]
        assert (pod["Dns"], pod["DnsSearch"]) == (
            ["172.28.0.1", "8.8.8.8"],
            ["service.consul"],
        )
        resolve = "import socket; print(socket.gethostbyname('dockermesh.node.consul'))"
        until(
            lambda: docker(
                "exec", "oldstyle-front-1", "python3", "-c", resolve, check=False
            ),
            "Consul's own names",
            10,
        )
    finally:
        consul("/v1/agent/service/deregister/foreign", "PUT")
        mesh.down("oldstyle")
