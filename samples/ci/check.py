"""Asks bookinfo's page until exactly those versions of reviews answer that are to answer.

check.py URL --versions v1 v2 v3
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import urllib.request

REQUESTS = 30
PATIENCE_S = 60.0
"""A new route has reached every proxy long before; an old connection may serve one request."""


def version_of(page: str) -> str:
    """Which version of reviews made the page; it writes its name below the reviews."""
    found = re.search(r"reviews-(v\d)", page)
    return found[1] if found else "none"


def ask(url: str) -> str:
    """One page; raises an OSError if there is none."""
    with urllib.request.urlopen(f"{url}/productpage", timeout=10) as answer:
        return answer.read().decode()


def main() -> int:
    """0 when exactly the wanted versions answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--versions", nargs="+", required=True)
    options = parser.parse_args()
    wanted = set(options.versions)

    deadline = time.monotonic() + PATIENCE_S
    seen: set[str] = set()
    while time.monotonic() < deadline:
        seen = {version_of(ask(options.url)) for _ in range(REQUESTS)}
        if seen == wanted:
            print(f"{REQUESTS} pages, reviews {', '.join(sorted(seen))}")
            return 0

    print(f"wanted {sorted(wanted)}, seen {sorted(seen)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
