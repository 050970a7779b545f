"""Requests beside others that do not end: held_client.py ADDRESS PORT AUTHORITY PATH TIMES POD [NAME:VALUE ...]

HTTP/2, one connection. Opens requests whose body does not end, and whose answers have begun, until
HELD of them are at POD; then ends those that came elsewhere. Then asks TIMES requests, one after
another: one line of JSON for each. Nothing here depends on how long anything takes.
"""
import json
import socket
import sys

import h2.config
import h2.connection
import h2.events

address, port, authority, path, times, pod = sys.argv[1:7]
given = [tuple(part.strip() for part in header.rsplit(": ", 1)) for header in sys.argv[7:]]
headers = [(name.lower(), value) for name, value in given if not name.startswith(":")]
HELD = 3
# They go to both pods alike.
MOST = 16


class Held:
    def __init__(self, connection):
        self.connection = connection
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.stream = h2.connection.H2Connection(config=config)
        self.stream.initiate_connection()
        self.send()

    def send(self):
        self.connection.sendall(self.stream.data_to_send())

    def begin(self, method, more, ends):
        stream_id = self.stream.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path or "/")]
        self.stream.send_headers(stream_id, pseudo + headers + more, end_stream=ends)
        self.send()
        return stream_id

    def until(self, stream_id, wanted):
        """The answer so far, when the event has come: a head or an end."""
        status, answer, body = 0, {}, b""
        while True:
            data = self.connection.recv(65536)
            if not data:
                raise OSError("the connection ended")
            is_there = False
            for event in self.stream.receive_data(data):
                if getattr(event, "stream_id", None) != stream_id:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    answer = {name.decode(): value.decode() for name, value in event.headers}
                    status = int(answer.pop(":status"))
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    self.stream.acknowledge_received_data(event.flow_controlled_length, stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    raise OSError(f"the stream was reset: {event.error_code}")
                is_there = is_there or isinstance(event, wanted)
            self.send()
            if is_there:
                return status, answer, body

    def hold(self):
        at_pod, elsewhere = 0, []
        for _ in range(MOST):
            if at_pod == HELD:
                break
            stream_id = self.begin("POST", [("x-echo", "body")], ends=False)
            status, answer, _ = self.until(stream_id, h2.events.ResponseReceived)
            if status != 200:
                raise OSError(f"status {status} for one to be held")
            if answer["x-pod"] == pod:
                at_pod += 1
            else:
                elsewhere.append(stream_id)
        if at_pod < HELD:
            raise OSError(f"{at_pod} of {HELD} requests are at {pod} after {MOST}")
        # Not before: the pod with fewer would get all that follow.
        for stream_id in elsewhere:
            self.stream.end_stream(stream_id)
            self.send()
            self.until(stream_id, h2.events.StreamEnded)

    def one(self):
        stream_id = self.begin("GET", [], ends=True)
        status, answer, body = self.until(stream_id, h2.events.StreamEnded)
        return {"status": status, "headers": answer, "body": body.decode()}


with socket.create_connection((address, int(port)), timeout=60) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        client = Held(connection)
        client.hold()
        for _ in range(int(times)):
            print(json.dumps(client.one()), flush=True)
    except OSError as error:
        told = {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}
        for _ in range(int(times)):
            print(json.dumps(told), flush=True)
