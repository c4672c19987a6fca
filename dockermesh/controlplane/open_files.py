"""How many files and connections this process may have open.

Since Docker 25 a container starts with a soft limit of 1024, which is one connection per proxy and
soon reached; the hard limit is what the administrator meant. Envoy raises its own in the same way.
"""

from __future__ import annotations

import contextlib
import resource


def allow_many_open_files() -> None:
    """Raise the soft limit to the hard one, which needs no privilege."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses its own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
