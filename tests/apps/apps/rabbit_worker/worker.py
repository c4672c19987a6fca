"""Doubles numbers."""

import pika

connection = pika.BlockingConnection(pika.ConnectionParameters("rabbitmq"))
channel = connection.channel()
channel.queue_declare("jobs")


def work(_channel, _method, properties, body):
    channel.basic_publish("", properties.reply_to, str(int(body) * 2).encode())


channel.basic_consume("jobs", work, auto_ack=True)
channel.start_consuming()
