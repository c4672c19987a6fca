"""The soft limit of open files."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource
from dockermesh.controlplane.open_files import allow_many_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
allow_many_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["256", "256"]
