"""Takes votes, and puts them on the queue."""

import redis
from flask import Flask, request

app = Flask(__name__)


@app.route("/", methods=["POST"])
def vote():
    redis.Redis("redis").rpush("votes", request.form["vote"])
    return "taken"


app.run("0.0.0.0", 80, threaded=True)
