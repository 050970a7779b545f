"""A connection that stays: waits for the greeting, then asks for an echo ten times a second.

live.py HOST PORT [COUNT]

Prints the greeting, `tick N` for each echo that came back, and `ended` with the reason when the
connection is over. Ends by itself after COUNT echoes.
"""
import socket
import sys
import time

host, port = sys.argv[1], int(sys.argv[2])
count = int(sys.argv[3]) if len(sys.argv) > 3 else 10**9
try:
    connection = socket.create_connection((host, port), timeout=10)
    stream = connection.makefile("rwb")
    greeting = stream.readline()
    if not greeting:
        raise ConnectionError("closed before the greeting")
    print(greeting.decode().strip(), flush=True)
    for number in range(count):
        asked = f"tick {number}\n".encode()
        stream.write(asked)
        stream.flush()
        answered = stream.readline()
        if answered != asked:
            raise ConnectionError(f"answered {answered!r}")
        print(asked.decode().strip(), flush=True)
        if number + 1 < count:
            time.sleep(0.1)
except OSError as error:
    print("ended:", error, flush=True)
    sys.exit(1)
