#!/usr/bin/python3
"""A web server on port 8080, both families, that says who asked: the peer's address, and what was sent."""
import http.server
import json
import socket


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        peer = self.client_address[0].removeprefix("::ffff:")
        body = json.dumps({"peer": peer, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


server = Server(("::", 8080), Web)
print("listening", flush=True)
server.serve_forever()
