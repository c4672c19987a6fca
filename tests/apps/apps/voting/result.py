"""Tells the count; a debugger's port beside the page."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
from flask import Flask, jsonify

app = Flask(__name__)


class Debugger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"debugger")

    def log_message(self, *_: object) -> None:
        pass


@app.route("/")
def result():
    cursor = psycopg2.connect(host="db", user="postgres").cursor()
    cursor.execute("select vote, count(*) from votes group by vote order by vote")
    return jsonify(dict(cursor.fetchall()))


server = ThreadingHTTPServer(("0.0.0.0", 9229), Debugger)
threading.Thread(target=server.serve_forever, daemon=True).start()
app.run("0.0.0.0", 80, threaded=True)
