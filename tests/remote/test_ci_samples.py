"""samples/ci/run in the three ways in which a CI job has an engine: as a service container, by its
host's mounted socket, and in the job's own container.

A job's container has this machine's /usr as its system, since no registry is reached; all else of
it is its own: network, processes, root and, in the last case, a dockerd with images of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patience import until
from remote_rig import BASE_IMAGE, RemoteEngine, run

ROOT = Path(__file__).parents[2]
SAMPLE = str(ROOT / "samples/ci/run")
SYSTEM = ("/usr", "/etc/alternatives", str(ROOT), sys.prefix, sys.base_prefix)
PROOF = ("reviews v1, v2, v3", "reviews v3")
"""What the sample says once all versions answered, and then the one that was routed to."""
DOCKER_IN_DOCKER = ("--cap-add=ALL", "--cap-drop=SYS_RESOURCE")
"""What `--privileged` gives, but for a capability that some machines do not have to give."""
WRITABLE = (
    "for mount in /sys/fs/cgroup /sys/fs/cgroup/* /proc/sys; do"
    " if mountpoint -q $mount; then mount -o remount,bind,rw $mount; fi; done"
)


@contextmanager
def job(engine: RemoteEngine, *options: str) -> Iterator[str]:
    """A job's container on the engine; removed with its volumes."""
    mounts = [f"--volume={path}:{path}:ro" for path in dict.fromkeys(SYSTEM)]
    settings = [f"--env={name}={value}" for name, value in engine.settings.items()]
    settings += [
        f"--env=PATH={Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "--env=HOME=/tmp",
        "--env=XDG_STATE_HOME=/tmp/state",
        f"--env=BASE_IMAGE={BASE_IMAGE}",
        "--env=PYTHONDONTWRITEBYTECODE=1",
    ]
    volatile = ("--tmpfs=/run:exec", "--tmpfs=/tmp:exec")
    container = engine.docker(
        "run",
        "--detach",
        *volatile,
        *mounts,
        *settings,
        *options,
        BASE_IMAGE,
        "sleep",
        "infinity",
    )
    try:
        yield container
    finally:
        engine.docker("rm", "--force", "--volumes", container)


def assert_passed(done: subprocess.CompletedProcess[str]) -> None:
    told = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, told
    assert all(line in done.stdout for line in PROOF), told


def test_the_sample_passes_with_the_engine_as_a_service(engine: RemoteEngine) -> None:
    environment = {**engine.by_tcp(), "BASE_IMAGE": BASE_IMAGE}
    assert_passed(run(SAMPLE, env=environment, check=False, seconds=180))


def test_the_sample_passes_with_the_socket_of_the_host(engine: RemoteEngine) -> None:
    socket = f"--volume={engine.socket}:/var/run/docker.sock"
    # Where the socket is on the engine's host is for the job to find out.
    with job(engine, socket, "--env=DOCKER_SOCK=") as container:
        command = ("docker", "exec", container, SAMPLE)
        done = run(*command, env=engine.by_socket(), check=False, seconds=180)
    assert_passed(done)


def test_the_sample_passes_with_the_engine_in_the_job(engine: RemoteEngine) -> None:
    unconfined = (
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
    )
    # Overlays do not work on an overlay.
    data = "--volume=/var/lib/docker"
    with job(
        engine, *DOCKER_IN_DOCKER, *unconfined, data, "--env=DOCKER_SOCK="
    ) as container:
        inside = ("exec", container)
        engine.docker(*inside, "sh", "-c", WRITABLE)
        engine.docker(
            "exec", "--detach", container, "sh", "-c", "dockerd >/tmp/dockerd.log 2>&1"
        )
        answers = (*inside, "docker", "version", "--format", "{{.Server.Version}}")
        until(
            lambda: engine.docker(*answers, check=False),
            "the job's own dockerd answers",
        )

        engine.give_images(
            ["docker", "-H", engine.address, "exec", "-i", container, "docker"]
        )
        done = run(
            "docker", *inside, SAMPLE, env=engine.by_socket(), check=False, seconds=180
        )
    assert_passed(done)
