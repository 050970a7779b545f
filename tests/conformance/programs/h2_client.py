"""Many requests on one HTTP/2 connection: h2_client.py ADDRESS PORT AUTHORITY PATH TIMES NAME:VALUE ...

For what curl 7.88 cannot do: with prior knowledge it fails at the second request of a connection.
`:method: GET` among the headers is the method, `:keep: cookie` sends back the cookies of answers.
One line of JSON for each answer.
"""
import json
import socket
import sys

import h2.config
import h2.connection
import h2.events

address, port, authority, path, times = sys.argv[1:6]
given = [tuple(part.strip() for part in header.rsplit(": ", 1)) for header in sys.argv[6:]]
method = next((value for name, value in given if name == ":method"), "GET")
keep = any(name == ":keep" for name, _ in given)
headers = [(name.lower(), value) for name, value in given if not name.startswith(":")]
# Clients of HTTP/2 have no other place for a host of their own.
authority = next((value for name, value in headers if name == "host"), authority)
headers = [(name, value) for name, value in headers if name != "host"]
cookies = {}


class Ended(Exception):
    pass


def receive(connection, stream_id, stream):
    status, answer, body = 0, {}, b""
    while True:
        data = connection.recv(65536)
        if not data:
            raise Ended("the connection ended")
        for event in stream.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                answer = {name.decode(): value.decode() for name, value in event.headers}
                status = int(answer.pop(":status"))
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
                stream.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                raise Ended(f"the stream was reset: {event.error_code}")
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise Ended(f"GOAWAY: {event.error_code}")
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream_id:
                connection.sendall(stream.data_to_send())
                return status, answer, body.decode()
        connection.sendall(stream.data_to_send())


def one(connection, stream):
    stream_id = stream.get_next_available_stream_id()
    pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path or "/"),
    ]
    kept = [("cookie", "; ".join(f"{k}={v}" for k, v in cookies.items()))] if cookies else []
    stream.send_headers(stream_id, pseudo + headers + kept, end_stream=True)
    connection.sendall(stream.data_to_send())
    status, answer, body = receive(connection, stream_id, stream)
    if keep and "set-cookie" in answer:
        name, _, value = answer["set-cookie"].partition(";")[0].partition("=")
        cookies[name] = value
    return {"status": status, "headers": answer, "body": body}


with socket.create_connection((address, int(port)), timeout=60) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    stream = h2.connection.H2Connection(config=config)
    stream.initiate_connection()
    connection.sendall(stream.data_to_send())
    for number in range(int(times)):
        try:
            answer = one(connection, stream)
        except (OSError, Ended) as error:
            answer = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
            # What is left has no connection.
            for _ in range(number, int(times)):
                print(json.dumps(answer))
            break
        print(json.dumps(answer), flush=True)
