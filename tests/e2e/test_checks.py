"""registrator's health checks work in the mesh, where Consul itself does not reach the pods, and
under STRICT, too.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from mesh_rig import Mesh, consul, send
from patience import until

pytestmark = pytest.mark.docker

APP = """
name: checked
services:
  shop:
    image: bookinfo-details-v1
    labels: {app: checked-shop}
    expose: ["9080"]
    environment:
      SERVICE_NAME: checked-shop
      SERVICE_PROTOCOL: http
      SERVICE_CHECK_HTTP: /health
      SERVICE_CHECK_INTERVAL: 1s
      SERVICE_CHECK_TIMEOUT: 1s
  scripted:
    image: bookinfo-details-v1
    expose: ["9080"]
    environment:
      SERVICE_CHECK_SCRIPT: test ! -e /tmp/down && echo up at $$SERVICE_PORT
      SERVICE_CHECK_INTERVAL: 1s
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: checked}
spec: {selector: {matchLabels: {app: checked-shop}}, mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: checked}
spec:
  selector: {matchLabels: {app: checked-shop}}
  rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/dockermesh-control-plane]}}]}]
"""


def passing(service: str = "checked-shop") -> int:
    return len(consul(f"/v1/health/service/{service}?passing"))


def test_a_check_that_is_declared_decides_whether_an_endpoint_is_used(
    mesh: Mesh, tmp_path: Path
) -> None:
    file, policies = tmp_path / "compose.yaml", tmp_path / "strict.yaml"
    file.write_text(APP)
    policies.write_text(STRICT)
    try:
        mesh.up(file)
        assert passing() == 1, "`up` returns when everything is healthy"
        assert passing("scripted") == 1, "so does a script, run in the container"
        subprocess.run(
            ["docker", "exec", "checked-scripted-1", "touch", "/tmp/down"], check=True
        )
        until(lambda: passing("scripted") == 0, "what the script says counts")
        for is_strict in (False, True):
            if is_strict:
                assert mesh.command("apply", "-f", str(policies)).returncode == 0
                mesh.until_synced()
                assert (
                    "breaks nothing"
                    in mesh.command(
                        "mtls", "status", "--service", "checked-shop"
                    ).stdout
                )
            send("checked-shop-1", signal.SIGSTOP)
            until(lambda: passing() == 0, "an app that does not answer is left out")
            (shop,) = [
                w for w in mesh.workloads("checked") if w["service"] == "checked-shop"
            ]
            assert shop["health"] == "unhealthy"
            send("checked-shop-1", signal.SIGCONT)
            until(
                lambda: passing() == 1,
                f"it is asked again and answers, STRICT or not: {is_strict}",
            )
    finally:
        mesh.command("delete", "-f", str(policies), "--ignore-not-found")
        mesh.down("checked")
