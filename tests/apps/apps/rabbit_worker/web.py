"""Asks the worker over RabbitMQ, and waits for its answer."""

import uuid

import pika
from flask import Flask

app = Flask(__name__)


@app.route("/double/<int:number>")
def double(number):
    connection = pika.BlockingConnection(pika.ConnectionParameters("rabbitmq"))
    channel = connection.channel()
    answers = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_declare("jobs")
    channel.basic_publish(
        "",
        "jobs",
        str(number).encode(),
        pika.BasicProperties(reply_to=answers, correlation_id=uuid.uuid4().hex),
    )
    _, _, body = next(channel.consume(answers, inactivity_timeout=20))
    connection.close()
    return body.decode() if body else ("no answer", 504)


app.run("0.0.0.0", 5000, threaded=True)
