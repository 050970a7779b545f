"""CONNECT and WebSocket over HTTP/2 (RFC 9113 8.5, RFC 8441): tunnel_client.py ADDRESS PORT AUTHORITY PATH TIMES [NAME:VALUE ...]

Bytes go there and back one after the other, then the client ends its side and reads to the end.
`:version: 1` is CONNECT of HTTP/1.1, `:protocol: websocket` is RFC 8441. One line of JSON for each.
"""
import json
import os
import socket
import struct
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

address, port, authority, path, times = sys.argv[1:6]
given = [tuple(part.strip() for part in header.rsplit(": ", 1)) for header in sys.argv[6:]]
version = next((value for name, value in given if name == ":version"), "2")
is_websocket = any(name == ":protocol" for name, _ in given)
headers = [(name.lower(), value) for name, value in given if not name.startswith(":")]
MESSAGES = [b"x" * size for size in (1, 2, 125, 126, 1000, 20000)]


def failed(why):
    return {"status": 0, "headers": {}, "body": why}


class Http1:
    def __init__(self, connection):
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        lines += [f"{name}: {value}" for name, value in headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        self.connection, self.stream = connection, connection.makefile("rb")
        self.status = int(self.stream.readline().split()[1])
        self.answered = {}
        while (line := self.stream.readline().strip()):
            name, _, value = line.decode().partition(":")
            self.answered[name.lower()] = value.strip()

    def send(self, data):
        self.connection.sendall(data)

    def read(self, size):
        return self.stream.read(size)

    def end(self):
        self.connection.shutdown(socket.SHUT_WR)


class Http2:
    def __init__(self, connection):
        # The library takes CONNECT without :scheme and :path for a mistake.
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="latin-1", validate_outbound_headers=False
        )
        self.connection, self.h2 = connection, h2.connection.H2Connection(config=config)
        self.h2.initiate_connection()
        self.flush()
        self.status, self.answered, self.data, self.is_over, self.has_settings = None, {}, b"", False, False
        self.until(lambda: self.has_settings)
        pseudo = [(":method", "CONNECT"), (":authority", authority)]
        if is_websocket:
            if not self.h2.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL, 0):
                raise OSError("the server does not offer RFC 8441")
            pseudo += [(":protocol", "websocket"), (":scheme", "http"), (":path", path)]
        self.h2.send_headers(1, pseudo + headers)
        self.flush()
        self.until(lambda: self.status is not None)

    def flush(self):
        self.connection.sendall(self.h2.data_to_send())

    def until(self, is_there):
        while not is_there() and not self.is_over:
            data = self.connection.recv(65536)
            if not data:
                raise OSError("the connection ended")
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.has_settings = True
                elif isinstance(event, h2.events.ResponseReceived):
                    self.answered = dict(event.headers)
                    self.status = int(self.answered.pop(":status"))
                elif isinstance(event, h2.events.DataReceived):
                    self.data += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.is_over = True
                elif isinstance(event, h2.events.StreamReset) and self.is_over and event.error_code == 0:
                    pass  # The answer is whole and nobody wants the rest of the request (RFC 9113 8.1).
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise OSError(str(event))
            self.flush()

    def send(self, data):
        for at in range(0, len(data), 16000):
            self.h2.send_data(1, data[at : at + 16000])
        self.flush()

    def read(self, size):
        self.until(lambda: size != -1 and len(self.data) >= size)
        data, self.data = (self.data, b"") if size == -1 else (self.data[:size], self.data[size:])
        return data

    def end(self):
        self.h2.end_stream(1)
        self.flush()


def frame(opcode, payload):
    """Masked, as a client's must be; the mask is zero."""
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    else:
        head += bytes([0x80 | 126]) + struct.pack("!H", len(payload))
    return head + bytes(4) + payload


def message(tunnel):
    opcode, length = tunnel.read(2)
    length &= 127
    if length == 126:
        (length,) = struct.unpack("!H", tunnel.read(2))
    return opcode & 15, tunnel.read(length)


def websocket(tunnel):
    _, seen = message(tunnel)
    for payload in MESSAGES:
        tunnel.send(frame(2, payload))
        if message(tunnel) != (2, payload):
            return failed("a message came back changed")
    tunnel.send(frame(8, struct.pack("!H", 1000)))
    opcode, _ = message(tunnel)
    if opcode != 8:
        return failed(f"no close came, but {opcode}")
    return {"status": tunnel.status, "headers": tunnel.answered, "body": seen.decode()}


def bytes_there_and_back(tunnel):
    for payload in MESSAGES:
        tunnel.send(payload)
        if tunnel.read(len(payload)) != payload:
            return failed("bytes came back changed")
    last = os.urandom(5000)
    tunnel.send(last)
    tunnel.end()
    if tunnel.read(-1) != last:
        return failed("what came after the end of one side was lost")
    return {"status": tunnel.status, "headers": tunnel.answered, "body": "there and back"}


def one():
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tunnel = Http1(connection) if version == "1" else Http2(connection)
        if tunnel.status != 200:
            return {"status": tunnel.status, "headers": tunnel.answered, "body": ""}
        return websocket(tunnel) if is_websocket else bytes_there_and_back(tunnel)


for _ in range(int(times)):
    try:
        answer = one()
    except (OSError, ValueError, IndexError) as error:
        answer = failed(f"{type(error).__name__}: {error}")
    print(json.dumps(answer), flush=True)
