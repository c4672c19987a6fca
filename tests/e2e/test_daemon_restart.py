"""F13: Docker's daemon restarts, and the whole mesh heals without a hand (last of all: it stops every container)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from load import Load
from mesh_rig import APPS, ROOT, Mesh, docker, get, pid, run, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture
def disposable_engine() -> None:
    """An engine that nobody but the tests uses: our own process, or a CI machine's."""
    if Path("/run/systemd/system").is_dir() and not os.environ.get("CI"):
        pytest.skip("this would restart Docker on somebody's machine; CI=true allows it")


def test_the_mesh_heals_after_a_restart_of_the_daemon(disposable_engine: None, mesh: Mesh) -> None:
    versions = {f"bookinfo/{app}-1" for app in APPS}
    before = pid("bookinfo-reviews-v1-1")
    with Load(rate=10) as load:
        until(lambda: len(load.samples) > 10, "load flows")
        stopping = time.monotonic()
        run("timeout", "120", str(ROOT / "scripts/engine"), "restart")
        back = time.monotonic()
        mesh.until_synced(30)
        healed = time.monotonic() - back
        until(lambda: [s for s in load.since(back) if not s.error], "pages again", 20)
        healthy = time.monotonic()
        until(lambda: len(load.since(healthy)) > 30, "some more pages", 20)
    assert pid("bookinfo-reviews-v1-1") != before, "the engine was not restarted"
    assert load.failures([(stopping - 1, back + 15)]) == [], load.report()
    assert {w["name"] for w in mesh.workloads()} >= versions
    assert get("http://127.0.0.1:30080/productpage")[0] == 200
    # All of it runs, and nobody is left in a namespace that is gone.
    for app in APPS:
        names = (f"bookinfo-{app}-1", f"bookinfo-{app}-1-proxy-1", f"bookinfo-{app}-1-pod-1")
        assert len({Path(f"/proc/{pid(name)}/ns/net").readlink() for name in names}) == 1, names
    assert healed < 15, f"in sync {healed:.1f} s after the engine was back"
    assert (
        docker("ps", "-q", "--filter", "label=com.docker.compose.project=bookinfo", "--filter", "status=exited") == ""
    )
