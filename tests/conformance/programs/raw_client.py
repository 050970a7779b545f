"""A client that sends bytes as they are: raw_client.py ADDRESS PORT AUTHORITY PATH TIMES TEXT [...]

`{a*1000}` in the text stands for a thousand times `a`, `{pair}` for the value that requests are counted by. With `{half}` the client ends its side behind
the text, with `{drip}` it sends byte by byte. Says the status line, headers and body of the first answer; status 0 when the connection ends without one.
"""
import json
import re
import socket
import sys

address, port, _, _, times, text = sys.argv[1:7]
pair = next(word.partition(": ")[2] for word in sys.argv[7:] if word.startswith("x-pair: "))
is_half, is_drip = "{half}" in text, "{drip}" in text
text = text.replace("{half}", "").replace("{drip}", "").replace("{pair}", pair)
text = re.sub(r"\{(.)\*(\d+)\}", lambda found: found[1] * int(found[2]), text)


def one():
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = text.encode("latin-1")
        for at in range(0, len(data), 1 if is_drip else len(data)):
            connection.sendall(data[at : at + 1] if is_drip else data)
        if is_half:
            connection.shutdown(socket.SHUT_WR)
        stream = connection.makefile("rb")
        line = stream.readline().split()
        if len(line) < 2:
            return {"status": 0, "headers": {}, "body": "ended without an answer"}
        headers = {}
        while (header := stream.readline().strip()):
            key, _, value = header.decode("latin-1").partition(":")
            headers[key.strip().lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0")))
        return {"status": int(line[1]), "headers": headers, "body": body.decode()}


for _ in range(int(times)):
    try:
        answer = one()
    except OSError as error:
        answer = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
