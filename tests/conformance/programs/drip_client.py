"""A client of one byte at a time: drip_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

Head and body leave byte by byte, and each byte of the body is sent when the one before has come
back: a proxy that holds one byte back answers nothing here. `:version: 2` speaks HTTP/2, a DATA frame
for each byte. One line of JSON for each connection.
"""
import json
import socket
import sys

import h2.config
import h2.connection
import h2.events

address, port, authority, path, times = sys.argv[1:6]
given = [tuple(part.strip() for part in header.rsplit(": ", 1)) for header in sys.argv[6:]]
version = next((value for name, value in given if name == ":version"), "1")
headers = [(name, value) for name, value in given if not name.startswith(":")]
BYTES = bytes(range(32, 127))


def drip(connection, data):
    for at in range(len(data)):
        connection.sendall(data[at : at + 1])


def failed(why):
    return {"status": 0, "headers": {}, "body": why}


def passed(status, answered):
    return {"status": status, "headers": answered, "body": f"{len(BYTES)} bytes one by one"}


def chunk(stream):
    size = int(stream.readline().strip() or b"0", 16)
    data = stream.read(size)
    stream.readline()
    return data


def by_http1(connection):
    head = [f"POST {path} HTTP/1.1", f"Host: {authority}", "Transfer-Encoding: chunked"]
    head += [f"{name}: {value}" for name, value in headers]
    drip(connection, "\r\n".join([*head, "", ""]).encode())
    stream = connection.makefile("rb")
    status, answered = None, {}
    for byte in BYTES:
        drip(connection, b"1\r\n%c\r\n" % byte)
        if status is None:
            status = int(stream.readline().split()[1])
            while (line := stream.readline().strip()):
                name, _, value = line.decode().partition(":")
                answered[name.lower()] = value.strip()
            if status != 200:
                return {"status": status, "headers": answered, "body": ""}
        if chunk(stream) != b"%c" % byte:
            return failed("another byte came back")
    drip(connection, b"0\r\n\r\n")
    return failed("more came than was sent") if chunk(stream) else passed(status, answered)


def events(connection, stream):
    while True:
        data = connection.recv(65536)
        if not data:
            raise OSError("the connection ended")
        for event in stream.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                stream.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            yield event
        drip(connection, stream.data_to_send())


def by_http2(connection):
    config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
    stream = h2.connection.H2Connection(config=config)
    stream.initiate_connection()
    pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", path)]
    stream.send_headers(1, pseudo + [(name.lower(), value) for name, value in headers])
    drip(connection, stream.data_to_send())
    coming = events(connection, stream)
    left, status, answered, back = list(BYTES), None, {}, b""
    stream.send_data(1, b"%c" % left.pop(0))
    drip(connection, stream.data_to_send())
    for event in coming:
        if isinstance(event, h2.events.ResponseReceived):
            answered = dict(event.headers)
            status = int(answered.pop(":status"))
            if status != 200:
                return {"status": status, "headers": answered, "body": ""}
        elif isinstance(event, h2.events.DataReceived) and event.data:
            back += event.data
            if len(event.data) != 1 or not BYTES.startswith(back):
                return failed("another byte came back")
            if left:
                stream.send_data(1, b"%c" % left.pop(0), end_stream=not left)
                drip(connection, stream.data_to_send())
        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
            return failed(f"{event}")
        elif isinstance(event, h2.events.StreamEnded):
            break
    return passed(status, answered) if back == BYTES else failed(f"{len(back)} bytes came back")


def one():
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return by_http2(connection) if version == "2" else by_http1(connection)


for _ in range(int(times)):
    try:
        answer = one()
    except (OSError, ValueError, IndexError) as error:
        answer = failed(f"{type(error).__name__}: {error}")
    print(json.dumps(answer), flush=True)
