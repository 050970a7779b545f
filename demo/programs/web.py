"""An HTTP server that says who it is, whom it sees, and gives the body back.

web.py PORT NAME

Every tenth request to /flaky is answered with 503. /counts says how many requests came to each
path, and how many of them failed.
"""
import collections
import http.server
import json
import socket
import sys


# Of paths, and of those that failed with their path and " failed".
counts = collections.Counter()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one segment: the second of two would wait for the first one's ACK, 40 ms.
    disable_nagle_algorithm = True
    wbufsize = 65536

    def answer(self):
        length = int(self.headers.get("content-length", "0"))
        status = 200
        if self.path != "/counts":
            counts[self.path] += 1
            if self.path == "/flaky" and counts[self.path] % 10 == 0:
                counts["/flaky failed"] += 1
                status = 503
        body = {
            "server": sys.argv[2],
            "path": self.path,
            "client": self.client_address[0].removeprefix("::ffff:"),
            "marker": self.rfile.read(length).decode(),
        }
        if self.path == "/counts":
            body = counts
        text = json.dumps(body, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 512
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


server = Server(("::", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
