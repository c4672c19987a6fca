"""Answers with the request line, the Host and the body that arrived; 8081 is a WebSocket that echoes."""

import asyncio
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import websockets


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        own = [name for name in self.headers if name.lower().startswith("x-test-")]
        seen = {
            "method": self.command,
            "path": self.path,
            "host": self.headers.get("Host"),
            "own": len(own),
            "body": len(self._chunks() if self._chunked() else self.rfile.read(size)),
        }
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunked(self) -> bool:
        return "chunked" in (self.headers.get("Transfer-Encoding") or "")

    def _chunks(self) -> bytes:
        read = b""
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return read

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer
    do_PROPFIND = do_PURGE = do_LINK = do_BREW = _answer

    def log_message(self, *_: object) -> None:
        pass


async def echo(socket, *_):
    async for message in socket:
        await socket.send(message)


async def sockets():
    async with websockets.serve(echo, "0.0.0.0", 8081):
        await asyncio.Future()


http.client._MAXHEADERS = 1000  # its own bound is 100
server = ThreadingHTTPServer(("0.0.0.0", 8080), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
asyncio.run(sockets())
