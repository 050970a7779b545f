"""WebSocket over HTTP/2 alone (RFC 8441): stream_server.py PORT NAME

Says first what it saw, as websocket_server.py does, then gives every message back. Other requests get 400.
"""
import json
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.frames import OP_BINARY, OP_CLOSE, OP_PING, OP_PONG, OP_TEXT, Frame
from websockets.streams import StreamReader

port, name = int(sys.argv[1]), sys.argv[2]


class WebSocket:
    """One stream: bytes in, bytes out."""

    def __init__(self, seen):
        self.reader, self.out, self.is_over = StreamReader(), b"", False
        self.say(OP_TEXT, json.dumps(seen).encode())
        self.frames = self.read()
        next(self.frames)

    def say(self, opcode, data):
        self.out += Frame(opcode, data).serialize(mask=False)

    def read(self):
        answers = {OP_TEXT: OP_TEXT, OP_BINARY: OP_BINARY, OP_PING: OP_PONG, OP_CLOSE: OP_CLOSE}
        while not self.is_over:
            frame = yield from Frame.parse(self.reader.read_exact, mask=True)
            if frame.opcode in answers:
                self.say(answers[frame.opcode], frame.data)
            self.is_over = frame.opcode == OP_CLOSE

    def feed(self, data):
        self.reader.feed_data(data)
        next(self.frames, None)


class Connection:
    def __init__(self, socket):
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.socket, self.h2, self.streams = socket, h2.connection.H2Connection(config), {}
        offered = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=offered)
        self.h2.initiate_connection()

    def serve(self):
        while True:
            self.flush()
            data = self.socket.recv(65536)
            if not data:
                return
            for event in self.h2.receive_data(data):
                self.on(event)

    def on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            headers = dict(event.headers)
            if headers.get(":protocol") != "websocket" or "sec-websocket-key" in headers:
                self.h2.send_headers(event.stream_id, [(":status", "400")], end_stream=True)
                return
            self.h2.send_headers(event.stream_id, [(":status", "200"), ("x-pod", name)])
            seen = {"pod": name, "path": headers[":path"], "host": headers[":authority"]}
            self.streams[event.stream_id] = WebSocket(seen)
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.stream_id in self.streams:
                self.streams[event.stream_id].feed(event.data)
        elif isinstance(event, h2.events.StreamReset):
            self.streams.pop(event.stream_id, None)

    def flush(self):
        for number, stream in list(self.streams.items()):
            while stream.out:
                window = self.h2.local_flow_control_window(number)
                size = min(window, self.h2.max_outbound_frame_size, len(stream.out))
                if size <= 0:
                    break
                self.h2.send_data(number, stream.out[:size])
                stream.out = stream.out[size:]
            if stream.is_over and not stream.out:
                self.h2.end_stream(number)
                del self.streams[number]
        self.socket.sendall(self.h2.data_to_send())


def serve(connection):
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            Connection(connection).serve()
        except OSError:
            pass


with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
