"""SMTP on 1025, and the subjects of the mails on 8025."""

from aiosmtpd.controller import Controller
from flask import Flask, jsonify

subjects: list[str] = []
app = Flask(__name__)


class Catcher:
    async def handle_DATA(self, server, session, envelope):
        lines = envelope.content.decode().splitlines()
        subjects.extend(line for line in lines if line.startswith("Subject:"))
        return "250 caught"


@app.route("/")
def page():
    return jsonify(sorted(subjects))


Controller(Catcher(), hostname="0.0.0.0", port=1025).start()
app.run("0.0.0.0", 8025, threaded=True)
