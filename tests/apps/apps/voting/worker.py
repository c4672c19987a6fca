"""Takes votes from the queue into the database. The wait script said that the database listens."""

import time

import psycopg2
import redis


def connected():
    """Postgres listens some milliseconds before it serves, and says so: with the mesh or without."""
    while True:
        try:
            return psycopg2.connect(host="db", user="postgres")
        except psycopg2.OperationalError as error:
            if "the database system is starting up" not in str(error):
                raise
            time.sleep(0.1)


database = connected()
database.autocommit = True
cursor = database.cursor()
cursor.execute("create table if not exists votes (vote text)")
queue = redis.Redis("redis")
while True:
    _, vote = queue.blpop("votes")
    cursor.execute("insert into votes values (%s)", (vote.decode(),))
