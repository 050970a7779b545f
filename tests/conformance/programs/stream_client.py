"""A client that sends a piece when the one before has come back: stream_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

HTTP/1.1, chunked both ways, of a server that gives back the body as it comes. A proxy that gathers a
body before it passes it on answers nothing here. One line of JSON for each connection.
"""
import json
import socket
import sys

address, port, authority, path, times = sys.argv[1:6]
headers = sys.argv[6:]
PIECES = [b"piece %d\n" % number + b"x" * (number * 1000) for number in range(8)]


def chunk(stream):
    size = int(stream.readline().strip() or b"0", 16)
    data = stream.read(size)
    stream.readline()
    return data


def one():
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        head = [f"POST {path} HTTP/1.1", f"Host: {authority}", "Transfer-Encoding: chunked", *headers]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        stream = connection.makefile("rb")
        answered = None
        for piece in PIECES:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            if answered is None:
                status = int(stream.readline().split()[1])
                answered = {}
                while (line := stream.readline().strip()):
                    name, _, value = line.decode().partition(":")
                    answered[name.lower()] = value.strip()
                if answered.get("transfer-encoding") != "chunked":
                    return {"status": status, "headers": answered, "body": "not chunked"}
            back = b""
            while len(back) < len(piece):
                data = chunk(stream)
                if not data:
                    return {"status": 0, "headers": {}, "body": "ended before its last piece"}
                back += data
            if back != piece:
                return {"status": 0, "headers": {}, "body": "a piece came back changed"}
        connection.sendall(b"0\r\n\r\n")
        if chunk(stream):
            return {"status": 0, "headers": {}, "body": "more came than was sent"}
        return {"status": status, "headers": answered, "body": f"{len(PIECES)} pieces"}


for _ in range(int(times)):
    try:
        answer = one()
    except (OSError, ValueError, IndexError) as error:
        answer = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
