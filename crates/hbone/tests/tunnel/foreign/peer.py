"""The other end of a tunnel: h2 and ssl of Python. Usage: peer.py client|server PORT, credentials beside it.

Opens (client) or answers (server) five CONNECT streams, sends on each, and prints for each one line:
authority, SHA-256 of what it received, SHA-256 of what it sent.
"""

import hashlib
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

STREAMS = 5


class Stream:
    def __init__(self, authority):
        self.authority = authority
        size = 120_000 * int(authority.rsplit(":", 1)[1])
        seed = hashlib.sha256(authority.encode()).digest()
        self.data = (seed * (size // len(seed) + 1))[:size]
        self.sent = hashlib.sha256(self.data).hexdigest()
        self.got = hashlib.sha256()
        self.at = 0
        self.open = False
        self.finished_sending = False
        self.finished = False

    def done(self):
        return self.finished and self.finished_sending


def tls(role):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_cert_chain("leaf.pem")
    context.load_verify_locations("root.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


def pump(conn, streams):
    for number, stream in streams.items():
        if not stream.open or stream.finished_sending:
            continue
        while stream.at < len(stream.data):
            room = min(conn.local_flow_control_window(number), conn.max_outbound_frame_size)
            if room <= 0:
                break
            piece = stream.data[stream.at : stream.at + room]
            conn.send_data(number, piece, pad_length=3 if len(piece) < room - 4 else None)
            stream.at += len(piece)
        if stream.at == len(stream.data):
            conn.end_stream(number)
            stream.finished_sending = True


def handle(conn, streams, event):
    if isinstance(event, h2.events.RequestReceived):
        fields = dict(event.headers)
        assert fields[":method"] == "CONNECT" and ":path" not in fields, fields
        streams[event.stream_id] = stream = Stream(fields[":authority"])
        conn.send_headers(event.stream_id, [(":status", "200"), ("baggage", "service.name=py")])
        stream.open = True
    elif isinstance(event, h2.events.ResponseReceived):
        fields = dict(event.headers)
        assert fields[":status"] == "200", fields
        streams[event.stream_id].open = True
    elif isinstance(event, h2.events.DataReceived):
        streams[event.stream_id].got.update(event.data)
        conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    elif isinstance(event, h2.events.StreamEnded):
        streams[event.stream_id].finished = True
    elif isinstance(event, h2.events.StreamReset):
        raise SystemExit("stream %d was reset: %r" % (event.stream_id, event.error_code))


def main():
    role, port = sys.argv[1], int(sys.argv[2])
    raw = socket.create_connection(("127.0.0.1", port))
    sock = tls(role).wrap_socket(raw, server_side=role == "server")
    assert sock.selected_alpn_protocol() == "h2"
    # h2 asks every request for a :path; a plain CONNECT has none (RFC 9113 8.5).
    config = h2.config.H2Configuration(
        client_side=role == "client",
        header_encoding="utf-8",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
    )
    conn = h2.connection.H2Connection(config)
    conn.initiate_connection()
    streams = {}
    if role == "client":
        for index in range(1, STREAMS + 1):
            number = conn.get_next_available_stream_id()
            authority = "10.0.0.1:%d" % index
            streams[number] = Stream(authority)
            conn.send_headers(
                number,
                [
                    (":method", "CONNECT"),
                    (":authority", authority),
                    ("baggage", "k8s.cluster.name=Kubernetes"),
                ],
            )
    sock.sendall(conn.data_to_send())
    while len(streams) < STREAMS or not all(s.done() for s in streams.values()):
        data = sock.recv(65_536)
        assert data, "the connection ended too early"
        for event in conn.receive_data(data):
            handle(conn, streams, event)
        pump(conn, streams)
        sock.sendall(conn.data_to_send())
    for stream in streams.values():
        print(stream.authority, stream.got.hexdigest(), stream.sent)
    if role == "server":
        # The other end says when it has everything.
        while sock.recv(65_536):
            pass
    conn.close_connection()
    try:
        sock.sendall(conn.data_to_send())
        sock.unwrap()
    except OSError:
        pass
    sock.close()


main()
