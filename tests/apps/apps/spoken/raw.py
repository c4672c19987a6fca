"""raw.py HOST PORT: sends stdin as it is, and prints the status and the body of the answer."""

import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
connection.sendall(sys.stdin.buffer.read())
connection.settimeout(10)
answer = b""
while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
    answer += part
head, _, body = answer.partition(b"\r\n\r\n")
size = 0
for line in head.lower().split(b"\r\n"):
    if line.startswith(b"content-length:"):
        size = int(line.split(b":")[1])
while len(body) < size and (part := connection.recv(65536)):
    body += part
print(
    head.split(b"\r\n")[0].split(b" ")[1].decode() if head else "closed", body.decode()
)
