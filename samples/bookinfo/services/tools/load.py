"""A load generator: `python3 -m tools.load [-c CONNECTIONS] [-n REQUESTS] [-H 'name: value'] URL`,
or `tcp://host:port`.

Prints one JSON object: how many answers had which status (0: none), who served them, and how long
it took. For TCP it sends a line on a connection of its own each time, and counts the first words of
the answers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, urlsplit

_PATIENCE_S = 60.0


def ask_http(url: SplitResult, headers: dict[str, str]) -> tuple[str, str]:
    """One request on a connection of its own: status and `x-served-by`."""
    scheme = (
        http.client.HTTPSConnection
        if url.scheme == "https"
        else http.client.HTTPConnection
    )
    connection = scheme(url.hostname or "", url.port, timeout=_PATIENCE_S)
    try:
        connection.request(
            "GET", url.path + (f"?{url.query}" if url.query else ""), headers=headers
        )
        answer = connection.getresponse()
        answer.read()
        return str(answer.status), answer.headers.get("x-served-by", "")
    except (OSError, http.client.HTTPException) as error:
        return "0", type(error).__name__
    finally:
        connection.close()


def ask_tcp(url: SplitResult, _headers: dict[str, str]) -> tuple[str, str]:
    """One line there and back."""
    try:
        with socket.create_connection(
            (url.hostname or "", url.port or 0), _PATIENCE_S
        ) as connection:
            connection.sendall(b"hello\n")
            return "200", connection.makefile().readline().split(" ")[0].strip()
    except OSError as error:
        return "0", type(error).__name__


def main() -> None:
    """Send the load and print what came back."""
    parser = argparse.ArgumentParser(prog="load")
    parser.add_argument(
        "-c",
        "--connections",
        type=int,
        default=1,
        help="how many requests at the same time",
    )
    parser.add_argument("-n", "--requests", type=int, default=1, help="how many in all")
    parser.add_argument(
        "-H", "--header", action="append", default=[], help="'name: value', repeatable"
    )
    parser.add_argument("url")
    options = parser.parse_args()
    url = urlsplit(options.url)
    headers = {
        name.strip(): value.strip()
        for name, _, value in (text.partition(":") for text in options.header)
    }
    ask = ask_tcp if url.scheme == "tcp" else ask_http
    began = time.monotonic()
    with ThreadPoolExecutor(options.connections) as pool:
        answers = list(pool.map(lambda _: ask(url, headers), range(options.requests)))
    print(
        json.dumps(
            {
                "requests": len(answers),
                "status": Counter(status for status, _ in answers),
                "served_by": Counter(served for _, served in answers),
                "seconds": round(time.monotonic() - began, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
