"""A TCP server that answers each line with the same line and its own name in front: `python3 -m
tools.echo NAME`.
"""

from __future__ import annotations

import socketserver
import sys

PORT = 9000


class Echo(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Answer until the client has no more to say."""
        for line in self.rfile:
            self.wfile.write(f"{sys.argv[1]} ".encode() + line)
            self.wfile.flush()


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    with Server(("", PORT), Echo) as server:
        print(f"{sys.argv[1]} listening on port {PORT}", flush=True)
        server.serve_forever()
