"""`up --telemetry` on a real engine: Prometheus reads every proxy and the control plane, and goes
with the mesh.
"""

from __future__ import annotations

import json
import urllib.parse

from mesh_rig import EVERYBODY, SAMPLE, Mesh, docker, get, inspect
from patience import until

PROJECT = "dockermesh-telemetry"
ASK = """
import urllib.request
try:
    print(urllib.request.urlopen("http://dockermesh-prometheus:9090/-/ready", timeout=60).read())
except OSError:
    print("no answer")
"""


def asked(url: str, query: str) -> list[dict[str, object]]:
    """Prometheus' answer; nothing while it is not there."""
    try:
        code, body = get(
            f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        )
    except OSError:
        return []
    return list(json.loads(body)["data"]["result"]) if code == 200 else []


def test_up_with_telemetry_starts_a_prometheus_that_reads_the_whole_mesh(
    mesh: Mesh,
) -> None:
    try:
        done = mesh.up(SAMPLE, "--telemetry", "-o", "json")
        urls = json.loads(done.stdout)["telemetry"]
        url = urls["prometheus"]
        assert url.startswith("http://127.0.0.1:")

        def read() -> set[str]:
            rows = asked(url, "up == 1")
            found = [dict(row["metric"]) for row in rows]  # type: ignore[call-overload]
            return {m.get("pod") or m["job"] for m in found}

        until(lambda: read() >= EVERYBODY | {"control-plane"}, "all are read", 90)

        told = docker(
            "exec", "bookinfo-details-v1-1", "python3", "-c", ASK, check=False
        )
        assert told == "no answer", told

        bindings = inspect("dockermesh-prometheus")["HostConfig"]["PortBindings"]
        (address,) = {b["HostIp"] for ports in bindings.values() for b in ports}
        assert address == "127.0.0.1"
        assert f"telemetry: Prometheus: {url}" in mesh.command("doctor").stdout

        started = inspect("dockermesh-prometheus")["State"]["StartedAt"]
        assert "telemetry" not in json.loads(mesh.up(SAMPLE, "-o", "json").stdout)
        assert inspect("dockermesh-prometheus")["State"]["StartedAt"] == started
    finally:
        docker("compose", "-p", PROJECT, "down", "-v", "--timeout", "1", check=False)
