"""Takes votes from the queue into the database. The wait script said that the database listens."""

import psycopg2
import redis

database = psycopg2.connect(host="db", user="postgres")
database.autocommit = True
cursor = database.cursor()
cursor.execute("create table if not exists votes (vote text)")
queue = redis.Redis("redis")
while True:
    _, vote = queue.blpop("votes")
    cursor.execute("insert into votes values (%s)", (vote.decode(),))
