"""What commands load: only what they need, as loading is most of the time that quick ones take."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["bring_down", "doctor"])
def test_what_injects_nothing_does_not_load_the_models_of_resources(
    module: str,
) -> None:
    program = (
        f"import sys; import dockermesh.client.compose.{module};"
        "print([m for m in sys.modules if m.startswith('dockermesh.config')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False
    )
    assert (done.stdout, done.stderr) == (b"[]\n", b"")
