"""Counts visits in Redis, and tells what of the request arrived."""

import redis
from flask import Flask, jsonify, redirect, request

app = Flask(__name__)
store = redis.Redis("redis")


@app.route("/visits")
def visits():
    return jsonify(visits=store.incr("visits"))


@app.route("/seen")
def seen():
    return jsonify(
        host=request.host,
        method=request.method,
        path=request.full_path,
        proto=request.headers.get("X-Forwarded-Proto"),
    )


@app.route("/away")
def away():
    return redirect("/seen", code=302)


@app.route("/fails")
def fails():
    return "no", 500


@app.route("/echo", methods=["POST"])
def echo():
    return request.get_data()


app.run("0.0.0.0", 8000, threaded=True)
