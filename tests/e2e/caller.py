"""Calls URLs again and again, one thread for each, and says of every answer what came of it; ends
with its input.

    python3 caller.py SECONDS URL...

Runs on the host and, handed over as text, in an app's container: it needs nothing but Python. A
thread asks again when it was answered, at the earliest SECONDS after it asked before: a slow
machine slows the load down.
"""

import http.client
import json
import re
import sys
import threading
import time
from urllib.parse import urlsplit

PATIENCE = 120
OVER = threading.Event()
WRITING = threading.Lock()


def fetch(url: str) -> tuple[int, str, str]:
    """Status, who answered, and what the page says it could not get."""
    parts = urlsplit(url)
    # A connection for every request: each is the mesh's to place.
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=PATIENCE
    )
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        sorry = "; ".join(
            found.strip()
            for found in re.findall("[^<>]*currently unavailable[^<>]*", text)
        )
        return (
            answer.status,
            answer.getheader("x-served-by", ""),
            sorry if answer.status == 200 else text[:100],
        )
    finally:
        connection.close()


def call(url: str, pace: float) -> None:
    """One thread: a line of JSON for each request."""
    while not OVER.is_set():
        began = time.monotonic()
        status, by, text = 0, "", ""
        try:
            status, by, text = fetch(url)
        except (OSError, http.client.HTTPException) as failure:
            text = repr(failure)
        ended = time.monotonic()
        with WRITING:
            print(json.dumps([url, began, ended, status, by, text]), flush=True)
        OVER.wait(max(0.0, began + pace - ended))


def main() -> None:
    """Call until the standard input ends."""
    threads = [
        threading.Thread(target=call, args=(url, float(sys.argv[1])))
        for url in sys.argv[2:]
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    OVER.set()
    for thread in threads:
        thread.join()


main()
