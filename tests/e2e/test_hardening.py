"""S14 and S15 as far as they can be seen from outside: what the mesh's own processes may do, and
what is captured.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mesh_rig import (
    APPS,
    CONSUL,
    CONTROL_PLANE,
    Mesh,
    consul,
    docker,
    inspect,
    pid,
    run,
)
from patience import until

from dockermesh.docker.admin import ProxyAdmin
from dockermesh.docker.engine import LocalEngine

pytestmark = pytest.mark.docker

PODS = [*(f"bookinfo-{app}-1-pod-1" for app in APPS), "bookinfo-gateway-pod-1"]
PROXIES = [*(f"bookinfo-{app}-1-proxy-1" for app in APPS), "bookinfo-gateway-proxy-1"]


def status(container: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid(container)}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def processes(container: str) -> list[str]:
    return docker("top", container, "-o", "pid,uid,comm").splitlines()[1:]


@pytest.mark.parametrize("container", [*PODS, *PROXIES])
def test_pod_and_proxy_have_no_privilege_left(mesh: Mesh, container: str) -> None:
    found = status(container)
    for field in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        if field != "CapBnd" or container in PROXIES:
            assert int(found[field], 16) == 0, f"{field} of {container}"
    assert set(found["Uid"].split()) == {"1337"}
    assert set(found["Gid"].split()) == {"1337"}
    assert found["NoNewPrivs"] == "1"
    host = inspect(container)["HostConfig"]
    # A sidecar's pod writes its hosts file, which is the app's, too.
    is_sidecars_pod = container in PODS and "gateway" not in container
    assert host["ReadonlyRootfs"] != is_sidecars_pod
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert not [m for m in inspect(container)["Mounts"] if "docker.sock" in m["Source"]]


@pytest.mark.parametrize("container", [CONTROL_PLANE, CONSUL])
def test_the_meshs_own_containers_have_no_capability(
    mesh: Mesh, container: str
) -> None:
    found = status(container)
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert inspect(container)["HostConfig"]["ReadonlyRootfs"]


def test_proxies_run_nothing_but_envoy_and_what_keeps_it_running(mesh: Mesh) -> None:
    for container in PROXIES:
        running = {line.split()[-1] for line in processes(container)}
        # What Envoy has is looked at and kept now and then.
        assert running - {"python3", "timeout", "bash"} == {"proxy", "envoy"}, container


def test_no_secret_is_shown_by_docker_or_ps(mesh: Mesh) -> None:
    """Of S4 and S17: neither the API's token nor a proxy's is in an environment, an argument or a
    log.
    """
    token = docker("exec", CONTROL_PLANE, "cat", "/var/lib/dockermesh/api.token")
    proxy = "bookinfo-details-v1-1-proxy-1"
    bootstrap = docker("exec", proxy, "cat", "/run/dockermesh/envoy.json")
    own = bootstrap.partition("Bearer ")[2][:64]
    assert len(own) == 64
    for container in (CONTROL_PLANE, proxy, "bookinfo-details-v1-1-pod-1"):
        log = run("docker", "logs", container)
        shown = (
            docker("inspect", container)
            + docker("top", container)
            + log.stdout
            + log.stderr
        )
        assert token not in shown
        assert own not in shown, container
        assert "PRIVATE KEY" not in shown
    assert (
        docker(
            "exec", CONTROL_PLANE, "stat", "-c", "%a", "/var/lib/dockermesh/api.token"
        )
        == "600"
    )
    # Not even the app that shares the pod's network sees the proxy's token.
    assert run(
        "docker",
        "exec",
        "bookinfo-details-v1-1",
        "cat",
        "/run/dockermesh/envoy.json",
        check=False,
    ).returncode


ASK = """
import json, sys, urllib.error, urllib.request
for line in sys.argv[1:]:
    method, path = line.split(" ")
    try:
        request = urllib.request.Request("http://127.0.0.1:15000" + path, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(json.dumps([line, answer.status, answer.read(65536).decode("utf-8", "replace")]))
    except urllib.error.HTTPError as error:
        print(json.dumps([line, error.code, error.read().decode("utf-8", "replace")]))
"""


def test_an_app_can_neither_read_nor_stop_its_own_proxy(mesh: Mesh) -> None:
    harmless = [
        "/ready",
        "/stats?filter=server.live",
        "/stats/prometheus",
        "/clusters",
        "/listeners",
        "/server_info",
    ]
    closed = [
        "GET /config_dump",
        "POST /quitquitquit",
        "POST /logging",
        "GET //config_dump",
        "POST /stats",
        "GET /",
    ]
    closed += [
        "GET /stats/../config_dump",
        "GET /stats/%2e%2e/config_dump",
        "GET /stats%2f..%2fconfig_dump",
    ]
    asked = [*(f"GET {path}" for path in harmless), *closed]
    started = inspect("bookinfo-details-v1-1-proxy-1")["State"]["StartedAt"]
    own = docker(
        "exec", "bookinfo-details-v1-1-proxy-1", "cat", "/run/dockermesh/envoy.json"
    )
    token = own.partition("Bearer ")[2][:64]
    for user in ("0", "1000"):
        told = docker(
            "exec", "-u", user, "bookinfo-details-v1-1", "python3", "-c", ASK, *asked
        )
        answers = [json.loads(line) for line in told.splitlines()]
        assert {line for line, code, _ in answers if code == 200} == set(
            asked[: len(harmless)]
        )
        assert {code for _, code, _ in answers if code != 200} <= {400, 403}
        assert token not in told
    assert inspect("bookinfo-details-v1-1-proxy-1")["State"]["StartedAt"] == started
    # Who may use the engine still sees everything.
    dump = ProxyAdmin(LocalEngine(), "bookinfo-details-v1-1-pod-1").get("/config_dump")
    assert json.loads(dump)["configs"]


def test_what_an_app_sends_goes_through_its_proxy(mesh: Mesh) -> None:
    """S15: by name, by address of a replica, and as root; only the proxy's uid passes, and apps may
    not have it.
    """
    address = next(
        iter(
            inspect("bookinfo-ratings-v1-1-pod-1")["NetworkSettings"][
                "Networks"
            ].values()
        )
    )["IPAddress"]
    call = (
        "import urllib.request as u; print(u.urlopen('http://{}:9080/ratings/0',"
        " timeout=60).headers)"
    )
    for host in ("ratings", address):
        headers = docker(
            "exec",
            "-u",
            "0",
            "bookinfo-details-v1-1",
            "python3",
            "-c",
            call.format(host),
        )
        assert "x-envoy-upstream-service-time" in headers, f"{host}: {headers}"


def test_the_injector_refuses_an_app_with_the_proxys_uid(
    mesh: Mesh, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "name: sneaky\nservices:\n  app: {image: bookinfo-details-v1, user: '1337'}\n"
    )
    done = mesh.command("up", "-f", str(file))
    assert done.returncode == 1
    assert "1337" in done.stderr and "->" in done.stderr


def test_an_image_that_calls_itself_a_pod_is_none(mesh: Mesh, tmp_path: Path) -> None:
    image = inspect("bookinfo-details-v1-1-pod-1")["Config"]["Image"]
    labels = (
        "dockermesh.io/role=pod dockermesh.io/kind=sidecar"
        " dockermesh.io/workload=bookinfo/impostor-1"
    )
    (tmp_path / "Dockerfile").write_text(
        f'FROM {image}\nLABEL {labels}\nENTRYPOINT ["sleep", "600"]\n'
    )
    made = docker("build", "-q", str(tmp_path))
    container = docker("run", "-d", "--network", "dockermesh", made)
    name = inspect(container)["Name"].lstrip("/")
    try:
        log = ("docker", "logs", "--tail", "200", CONTROL_PLANE)
        until(
            lambda: [line for line in run(*log).stderr.splitlines() if name in line],
            "the registrar has seen it",
        )
        assert "bookinfo/impostor-1" not in {w["name"] for w in mesh.workloads()}
        kept = consul("/v1/kv/dockermesh/workloads?keys")
        assert kept and not [key for key in kept if "impostor" in key]
    finally:
        docker("rm", "-f", container)
        docker("rmi", made)
