"""A TCP client of a server that speaks first: tcp_client.py ADDRESS PORT AUTHORITY PATH TIMES

Waits for the greeting, sends a megabyte, ends its side, and reads all of it back. One line of JSON
for each connection.
"""
import json
import os
import socket
import sys
import threading

address, port, _, _, times = sys.argv[1:6]


def one():
    sent = os.urandom(1 << 20)
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        stream = connection.makefile("rb")
        greeting = stream.readline().decode().split()
        if len(greeting) != 2:
            return {"status": 0, "headers": {}, "body": f"greeted with {greeting}"}

        def send():
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = stream.read()
        sender.join()
        if received != sent:
            return {"status": 0, "headers": {}, "body": f"{len(received)} of {len(sent)} bytes"}
        return {"status": 200, "headers": {"x-pod": greeting[1]}, "body": ""}


for _ in range(int(times)):
    try:
        answer = one()
    except OSError as error:
        answer = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
