"""A page on 8000, metrics on 9100."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(port, body):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()


threading.Thread(target=serve, args=(9100, b"answers 42\n"), daemon=True).start()
serve(8000, b"page\n")
